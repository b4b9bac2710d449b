"""Where KV pairs live: what is left of a context after eviction, and the rows of the running batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairkv_eval.attention import Options

BLOCK = 128  # tokens a row buffer grows by; room beyond a row's entries is zeroed, since even a hidden NaN would spread


@dataclass
class ContextCache:
    """The KV pairs of one context, layer by layer: keys and values ``[kv_heads, kept, dim]``.

    ``tokens`` is the context's length, so what follows it continues at that position. ``full_bytes`` is what the same
    layers hold without eviction. ``segment_kept`` counts, for each segment, the kept pairs of its tokens summed over
    ``slots`` heads and layers.
    """

    tokens: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    full_bytes: int = 0
    full_pairs: int = 0
    segment_kept: dict[str, int] = field(default_factory=dict)
    slots: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    @property
    def pairs(self) -> int:
        """KV pairs held, summed over layers and heads."""
        return sum(k.shape[0] * k.shape[1] for k in self.keys)


class RowCache:
    """KV pairs of the rows that decode together: per layer a buffer ``[slots, kv_heads, capacity, dim]``.

    Row r of layer l holds its first ``lengths[l][r]`` entries; what lies beyond is never visible. Rows occupy the
    slots 0 … rows−1: one that leaves is replaced by the last. Buffers have room for ``slots`` rows from the start (and
    double where more come), grow by blocks of tokens, lie on their layer's own device, and are kept.
    """

    def __init__(self, slots: int = 1) -> None:
        self.rows = 0
        self._slots = slots
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.lengths: list[list[int]] = []
        self._steps: dict[tuple, _Step] = {}

    def add(self, keys: list[Tensor], values: list[Tensor]) -> None:
        """Append a row from its layers' ``[kv_heads, m, dim]`` tensors."""
        if not self.keys:
            self.keys = [k.new_empty(0, k.shape[0], 0, k.shape[2]) for k in keys]
            self.values = [v.new_empty(0, v.shape[0], 0, v.shape[2]) for v in values]
            self.lengths = [[] for _ in keys]
        row, self.rows = self.rows, self.rows + 1
        for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
            m = k.shape[1]
            self._reserve(layer, m + 1)
            for buffer, entries in ((self.keys[layer], k), (self.values[layer], v)):
                buffer[row, :, :m] = entries
                buffer[row, :, m:] = 0
            self.lengths[layer].append(m)

    def remove(self, row: int) -> None:
        """Drop a row; the last row takes its slot."""
        last = self.rows - 1
        for layer, lengths in enumerate(self.lengths):
            if row != last:
                self.keys[layer][row] = self.keys[layer][last]
                self.values[layer][row] = self.values[layer][last]
                lengths[row] = lengths[last]
            lengths.pop()
        self.rows = last

    def begin_step(self) -> None:
        """Make room for one more token a row. Call once before each decode step."""
        self._steps = {}
        for layer, lengths in enumerate(self.lengths):
            self._reserve(layer, max(lengths) + 1)

    def append(self, layer: int, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor, Tensor | None]:
        """Append one token to every row of a layer and show what each row may see.

        k, v: ``[rows, kv_heads, dim]``. Returns keys and values ``[rows, kv_heads, m, dim]`` and a boolean mask
        ``[rows, 1, 1, m]`` of visible entries, None where all are.
        """
        lengths = self.lengths[layer]
        key = (k.device, options.window, tuple(lengths))
        step = self._steps.get(key)
        if step is None:  # layers that share lengths share the step's small tensors
            step = self._steps[key] = _Step.of(lengths, options.window, k.device)
        self.keys[layer][step.rows, :, step.positions] = k
        self.values[layer][step.rows, :, step.positions] = v
        self.lengths[layer] = [m + 1 for m in lengths]
        rows = slice(0, self.rows)
        span = slice(0, step.longest)
        return self.keys[layer][rows, :, span], self.values[layer][rows, :, span], step.mask

    @property
    def nbytes_held(self) -> int:
        """Bytes of the entries in use."""
        return sum(
            sum(lengths) * buffer.shape[1] * buffer.shape[3] * buffer.element_size()
            for buffers in (self.keys, self.values)
            for lengths, buffer in zip(self.lengths, buffers, strict=True)
        )

    @property
    def nbytes_allocated(self) -> int:
        """Bytes of the buffers, room to grow included."""
        return sum(t.nbytes for t in (*self.keys, *self.values))

    def _reserve(self, layer: int, tokens: int) -> None:
        slots, heads, capacity, _ = self.keys[layer].shape
        if self.rows <= slots and tokens <= capacity:
            return
        if tokens > capacity:  # one block more than needed: rows of a group differ by less than that
            capacity = (-(-tokens // BLOCK) + 1) * BLOCK
        if self.rows > slots:
            slots = max(self.rows, self._slots, 2 * slots)
        for buffers in (self.keys, self.values):
            old = buffers[layer]
            buffers[layer] = old.new_zeros(slots, heads, capacity, old.shape[3])
            buffers[layer][: old.shape[0], :, : old.shape[2]] = old


@dataclass(frozen=True)
class _Step:
    """Where a decode step writes and what it sees: rows and positions ``[rows]``, mask ``[rows, 1, 1, longest]``."""

    rows: Tensor
    positions: Tensor
    longest: int
    mask: Tensor | None

    @classmethod
    def of(cls, lengths: list[int], window: int | None, device: torch.device) -> _Step:
        positions = torch.tensor(lengths, device=device)
        longest = max(lengths) + 1
        window = longest if window is None else min(window, longest)
        mask = None
        if min(window, min(lengths) + 1) < longest:
            entry = torch.arange(longest, device=device)
            mask = (entry <= positions[:, None]) & (entry > positions[:, None] - window)
            mask = mask[:, None, None]
        return cls(torch.arange(len(lengths), device=device), positions, longest, mask)
