"""The contract between the caches that hold KV pairs and the backends that attend over them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fairkv_eval.attention.output_projection import OutputProjection


class Options(NamedTuple):
    """How a layer attends: the factor of its logits, a sliding window in tokens, a bound on the logits; and what it
    makes of the heads' outputs, for rules that look at that."""

    scaling: float
    window: int | None = None
    softcap: float | None = None
    output: OutputProjection | None = None


@dataclass(frozen=True)
class Step:
    """Where a decode step writes, ``rows`` and ``positions`` ``[rows]``, and what each row sees once it has written.

    The rows hold from ``shortest`` to ``longest`` entries, of which a sliding window shows the last ``window``.
    """

    rows: Tensor
    positions: Tensor
    shortest: int
    longest: int
    window: int | None

    @classmethod
    def of(cls, lengths: list[int], window: int | None, device: torch.device) -> Step:
        positions = torch.tensor(lengths, device=device)
        rows = torch.arange(len(lengths), device=device)
        return cls(rows, positions, min(lengths) + 1, max(lengths) + 1, window)

    @cached_property
    def lengths(self) -> Tensor:
        """Entries of each row: int32 ``[rows]``."""
        return (self.positions + 1).int()

    @cached_property
    def mask(self) -> Tensor | None:
        """Visible entries, boolean ``[rows, 1, 1, longest]``; None if all are."""
        window = self.longest if self.window is None else min(self.window, self.longest)
        if min(window, self.shortest) == self.longest:
            return None
        entry = torch.arange(self.longest, device=self.positions.device)
        mask = (entry <= self.positions[:, None]) & (entry > self.positions[:, None] - window)
        return mask[:, None, None]


class VisibleRows(NamedTuple):
    """What a decode step sees of one buffer: its heads, its keys and values ``[rows, heads, capacity, dim]`` where they
    lie, and the step, which says how many of a row's entries are visible."""

    heads: slice
    keys: Tensor
    values: Tensor
    step: Step


Attending = tuple[Tensor, Tensor, Tensor]  # queries [heads, m, dim], keys and values [kv_heads, n, dim] of a sequence


class Backend(Protocol):
    """How a layer attends: over packed sequences, and one query per row."""

    name: str

    def packed(self, sequences: Iterable[Attending], options: Options) -> list[Tensor]:
        """For each sequence, the attention of its last m of n tokens, each over itself and the tokens before it.

        sequences: queries ``[heads, m, dim]``, keys and values ``[kv_heads, n, dim]`` of each, with the same number of
        heads per KV head everywhere. They are consumed one by one, since all of them at once may be more than memory
        holds. Returns tensors of the queries' shapes.
        """

    def rows(self, q: Tensor, visible: VisibleRows, options: Options) -> Tensor:
        """One query per row and head over the row's entries: q ``[rows, kv_heads, group, dim]`` to the shape of q."""
