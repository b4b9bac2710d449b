"""What is asked of the engine, what comes back, and what a run adds up to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from fairkv_eval.engine.fidelity import Lead
from fairkv_eval.engine.sampling import GREEDY, Sampling
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.tokens import Prompt


@dataclass(frozen=True)
class Generate:
    """Generate up to ``max_tokens`` tokens, stopping after any of the strings ``stop``.

    ``entropy``: tell the mean entropy of the distributions that the tokens came from, which costs a softmax a step.
    """

    max_tokens: int
    stop: tuple[str, ...] = ()
    sampling: Sampling = GREEDY
    entropy: bool = False


@dataclass(frozen=True)
class Score:
    """Score the tokens of ``continuation``, each given all before it."""

    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Follow(Score):
    """Compare the distributions that predict the tokens of ``continuation`` with those of ``lead``."""

    lead: Lead = field(default_factory=Lead, compare=False)


@dataclass(frozen=True)
class Job:
    """One prompt under one policy, and what is wanted of it. ``label`` names task and document in errors."""

    prompt: Prompt
    policy: Policy
    want: Generate | Score
    label: str

    @property
    def tail(self) -> tuple[int, ...]:
        """The tokens that run against what is left of the context, the last of a continuation apart."""
        tail = self.prompt.tokens[self.prompt.context_length :]
        return tail + self.want.continuation[:-1] if isinstance(self.want, Score) else tail


@dataclass(frozen=True)
class Result:
    """``tokens`` of a generation; ``logprob`` (nats, summed) and ``greedy`` of a score; ``fidelity`` of what followed
    another's distributions; what eviction did."""

    telemetry: dict[str, Any]
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    greedy: bool = False
    fidelity: dict[str, float] | None = None


@dataclass
class Totals:
    """What a run processed: tokens, seconds, and bytes of the contexts before and after eviction."""

    contexts: int = 0
    prefill_tokens: int = 0
    shared_tokens: int = 0
    replay_tokens: int = 0
    prefill_seconds: float = 0.0
    tail_tokens: int = 0
    tail_seconds: float = 0.0
    decode_tokens: int = 0
    decode_seconds: float = 0.0
    kv_pairs_full: int = 0
    kv_pairs_kept: int = 0
    kv_bytes_full: int = 0
    kv_bytes_kept: int = 0

    def add(self, other: Totals) -> None:
        """Add another run's."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)

    def describe(self) -> dict[str, Any]:
        """Figures for the result: achieved ratio over KV pairs, bytes, tokens per second."""

        def rate(tokens: int, seconds: float) -> float | None:
            return round(tokens / seconds, 1) if seconds else None

        full = self.kv_pairs_full
        return {
            **{k: v for k, v in asdict(self).items() if not k.endswith("_seconds")},
            "achieved_ratio": round(1 - self.kv_pairs_kept / full, 6) if full else None,
            "prefill_tokens_per_second": rate(self.prefill_tokens, self.prefill_seconds),
            "tail_tokens_per_second": rate(self.tail_tokens, self.tail_seconds),
            "decode_tokens_per_second": rate(self.decode_tokens, self.decode_seconds),
        }
