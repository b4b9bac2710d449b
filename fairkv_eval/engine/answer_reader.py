"""What comes of a pass: log-likelihoods and fidelity from a tail's logits, and whether a generation has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from fairkv_eval.engine.batch import Row
from fairkv_eval.engine.jobs import Fidelity, Generation, LogLikelihood
from fairkv_eval.engine.result import Result
from fairkv_eval.engine.sampling import entropy


class AnswerReader:
    """Reads answers off logits and tokens.

    decode: tokens to text, for stop strings. eos: tokens that end a generation. softmax_dtype: of log-likelihoods.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str] | None = None,
        eos: Iterable[int] = (),
        softmax_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.decode = decode
        self.eos = frozenset(eos)
        self.softmax_dtype = softmax_dtype
        self._texts: dict[int, str] = {}  # of tokens by themselves

    def scored(self, want: LogLikelihood, logits: Tensor, telemetry: dict[str, Any]) -> Result:
        """The result of a continuation, from the logits ``[n, vocabulary]`` that predict its n tokens."""
        if isinstance(want, Fidelity):
            return Result(telemetry, fidelity=want.lead.compare(logits))
        continuation = torch.tensor(want.continuation, device=logits.device)
        logprobs = logits.log_softmax(-1, dtype=self.softmax_dtype).gather(1, continuation[:, None])
        greedy = bool((logits.argmax(-1) == continuation).all())
        telemetry = {
            **telemetry,
            "continuation_tokens": len(continuation),
            "choice_tokens": len(continuation) - want.blanks,
            "choice_logprob": float(logprobs[want.blanks :].sum()),
        }
        return Result(telemetry, logprob=float(logprobs.sum()), greedy=greedy)

    def ended(self, row: Row) -> bool:
        """Whether the row's last token ends it."""
        return len(row.tokens) >= row.want.max_tokens or self._stopped(row.want, row.tokens)

    def cut(self, want: Generation, tokens: Sequence[int]) -> bool:
        """Whether an answer of these tokens ended because it may have no more, and not by itself."""
        return len(tokens) >= want.max_tokens and not self._stopped(want, tokens)

    def _stopped(self, want: Generation, tokens: Sequence[int]) -> bool:
        """Whether the last token is one that ends a generation, or completes a stop string."""
        if tokens[-1] in self.eos:
            return True
        if not want.stop or self.decode is None or not self._may_complete(tokens[-1], want.stop):
            return False
        # A token is at least one byte, so a stop string that ends here begins within this many tokens.
        longest = max(len(stop.encode()) for stop in want.stop)
        text = self.decode(tokens[-longest - 4 :])
        return any(stop in text for stop in want.stop)

    def _may_complete(self, token: int, stops: tuple[str, ...]) -> bool:
        """Whether a stop string may end with this token; few tokens may, so that few rows decode their text each step.

        A token by itself may lack white space that it adds behind others, and may be a part of a character.
        """
        assert self.decode is not None
        if token not in self._texts:
            self._texts[token] = self.decode([token])
        text = self._texts[token]
        return "\ufffd" in text or any(stop[-1].isspace() or stop[-1] in text for stop in stops)


def add_entropy(rows: Sequence[Row], logits: Tensor) -> None:
    """Add the entropy of the logits ``[rows, vocabulary]`` to the rows that report it."""
    reporting = [i for i, row in enumerate(rows) if row.want.entropy]
    for i, nats in zip(reporting, entropy(logits[reporting]).tolist() if reporting else (), strict=True):
        rows[i].entropy += nats


def next_tokens(rows: Sequence[Row], logits: Tensor) -> list[int]:
    """The next token of each row from the logits ``[rows, vocabulary]``."""
    largest = logits.float().argmax(-1).tolist()
    return [largest[i] if row.sampler.greedy else row.sampler.choose(logits[i].float()) for i, row in enumerate(rows)]
