"""What is asked of the engine: jobs, and what each wants of its prompt."""

from __future__ import annotations

from dataclasses import dataclass, field

from fairkv_eval.engine.fidelity import Lead
from fairkv_eval.engine.sampling import GREEDY, Sampling
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.tokens import Prompt


@dataclass(frozen=True)
class Generation:
    """Generate up to ``max_tokens`` tokens, stopping after any of the strings ``stop``.

    ``entropy``: report the mean entropy of the distributions that the tokens came from, at the cost of one softmax per
    step.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    entropy: bool = False


@dataclass(frozen=True)
class LogLikelihood:
    """Score the tokens of ``continuation``, each given all tokens before it.

    blanks: how many of its first tokens are white space from the end of the prompt. The harness scores them with the
    continuation; telemetry has the numbers without them.
    """

    continuation: tuple[int, ...]
    blanks: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class Fidelity(LogLikelihood):
    """Compare the distributions that predict the tokens of ``continuation`` with those of ``lead``."""

    lead: Lead = field(default_factory=Lead, compare=False)


@dataclass(frozen=True)
class Job:
    """One prompt under one policy, and what is wanted of it. ``label`` names task and document in errors."""

    prompt: Prompt
    policy: Policy
    want: Generation | LogLikelihood
    label: str

    def __post_init__(self) -> None:
        if not 1 <= self.n_predictions <= len(self.tail):
            raise ValueError(
                f"{self.label}: {self.n_predictions} predictions are read of a tail of {len(self.tail)} tokens, so a "
                "sequence would read another's"
            )

    @property
    def context_tokens(self) -> tuple[int, ...]:
        """The tokens of the prompt that may be evicted."""
        return self.prompt.tokens[: self.prompt.context_length]

    @property
    def question(self) -> tuple[int, ...]:
        """The tokens of the prompt after the context, without a continuation to score."""
        return self.prompt.tokens[self.prompt.context_length :]

    @property
    def tail(self) -> tuple[int, ...]:
        """The tokens that run against the compressed context; a continuation's last token predicts nothing."""
        scored = self.want.continuation[:-1] if isinstance(self.want, LogLikelihood) else ()
        return self.question + scored

    @property
    def n_predictions(self) -> int:
        """How many of the tail's last tokens have logits that are read."""
        return len(self.want.continuation) if isinstance(self.want, LogLikelihood) else 1
