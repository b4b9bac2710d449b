"""What part of each segment an eviction kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairkv_eval.prompts.segments import Segment


class KeepRates:
    """Counts what is kept of each segment of a context of n tokens, layer by layer."""

    def __init__(self, segments: Sequence[Segment], n: int) -> None:
        self.segments = segments
        self._counts = torch.zeros(n, dtype=torch.int64)  # layers and heads that keep a position
        self._n_heads = 0

    def count(self, index: Sequence[Tensor]) -> None:
        """Count the kept positions of one layer, as `Plan.choose` returns them."""
        self._counts = self._counts.to(index[0].device)
        for positions in index:
            flat = positions.flatten()
            self._counts.index_add_(0, flat, torch.ones_like(flat))  # a bincount would wait for its device
            self._n_heads += len(positions)

    def by_segment(self) -> dict[str, float]:
        """The part of each segment's pairs that was kept, over the layers and heads counted so far; 1 if there are
        none. Segments of the same name count as one."""
        lengths: dict[str, int] = {}
        kept: dict[str, int] = {}
        counts = self._counts.cpu()
        for name, start, stop in self.segments:
            lengths[name] = lengths.get(name, 0) + stop - start
            kept[name] = kept.get(name, 0) + int(counts[start:stop].sum())
        return {name: kept[name] / (self._n_heads * n) if self._n_heads * n else 1.0 for name, n in lengths.items()}
