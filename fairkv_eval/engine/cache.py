"""Where KV pairs live: those of a context after eviction, and those of the rows of the running batch.

KV heads that hold equally many pairs share a tensor; heads of different lengths have one each, so that what an uneven
budget saves is really saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Step, VisibleRows

BLOCK = 128  # tokens a row buffer grows by; room beyond a row's entries is zeroed, since even a hidden NaN would spread


class Pairs(NamedTuple):
    """KV pairs of consecutive KV heads that hold equally many: keys and values ``[heads, m, dim]``."""

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def by_head(self) -> list[Pairs]:
        """The same pairs, head by head."""
        return [Pairs(k, v) for k, v in zip(self.keys.split(1), self.values.split(1), strict=True)]


LayerPairs = list[Pairs]  # of one layer of a context or row: one for all heads, or one per head


class Received(NamedTuple):
    """What a layer's kept pairs received: their positions in the context, int64, and the attention that the context's
    queries gave them, summed, float32; both ``[kv_heads, m]``."""

    positions: Tensor
    attention: Tensor


@dataclass
class ContextCache:
    """The KV pairs of one context, layer by layer.

    ``n_tokens`` is the context's length and ``position`` that of the token after it: the same, unless the kept keys
    moved up to consecutive positions. ``full_bytes`` and ``full_pairs`` are what the same layers hold without eviction.
    ``keep_rates`` is the part of each segment's pairs that was kept, over the layers and heads that evict. ``received``
    is filled, by layer index, for rows with a decode budget. ``merged_pairs``: evicted pairs that were merged into kept
    ones; ``thresholds``: from which similarity, by layer index (see `Merged`).
    """

    n_tokens: int
    position: int = 0
    layers: list[LayerPairs] = field(default_factory=list)
    full_bytes: int = 0
    full_pairs: int = 0
    keep_rates: dict[str, float] = field(default_factory=dict)
    received: dict[int, Received] = field(default_factory=dict)
    merged_pairs: int = 0
    thresholds: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.position = self.position or self.n_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return sum(pairs.nbytes for layer in self.layers for pairs in layer)

    @property
    def pairs(self) -> int:
        """KV pairs held, summed over layers and heads."""
        return sum(pairs.keys.shape[0] * pairs.keys.shape[1] for layer in self.layers for pairs in layer)


class RowCache:
    """KV pairs of the rows that decode together: per layer a `Buffer` for all heads, or one per head.

    A layer begins with one buffer and is split by heads when a row comes whose heads differ in length. Rows occupy the
    slots 0 … n_rows−1: one that leaves is replaced by the last. Buffers have room for ``slots`` rows from the start and
    after `resize` (and double if more come), grow by blocks of tokens, and lie on their layer's own device.
    """

    def __init__(self, slots: int = 1) -> None:
        self.n_rows = 0
        self.slots = slots
        self.layers: list[list[Buffer]] = []
        self._steps: dict[tuple[torch.device, int | None, tuple[int, ...]], Step] = {}

    def add(self, layers: Sequence[LayerPairs]) -> None:
        """Append a row, its pairs layer by layer."""
        if not self.layers:
            self.layers = [[Buffer(_empty_like(pairs), self.slots)] for pairs in layers]
        slot, self.n_rows = self.n_rows, self.n_rows + 1
        for index, pairs in enumerate(layers):
            if len(pairs) > len(self.layers[index]):
                self.layers[index] = self.layers[index][0].by_head()
            elif len(pairs) < len(self.layers[index]):
                pairs = pairs[0].by_head()
            for buffer, part in zip(self.layers[index], pairs, strict=True):
                buffer.write(slot, part)

    def resize(self, slots: int) -> None:
        """Give the buffers room for this many rows, or for all rows there are if they are more."""
        self.slots = max(slots, self.n_rows)
        for buffer in self.buffers:
            buffer.resize(self.slots)

    def pairs_by_layer(self, slot: int) -> list[LayerPairs]:
        """The pairs of one row, layer by layer; views of the buffers."""
        return [[buffer.read(slot) for buffer in buffers] for buffers in self.layers]

    @property
    def longest(self) -> int:
        """Pairs of the longest head of any row."""
        return max((m for buffer in self.buffers for m in buffer.lengths), default=0)

    def remove(self, slot: int) -> None:
        """Drop a row; the last row takes its slot."""
        self.n_rows -= 1
        for buffer in self.buffers:
            buffer.move(self.n_rows, slot)

    def begin_step(self) -> None:
        """Make room for one more token per row. Call once before each decode step."""
        self._steps = {}
        for buffer in self.buffers:
            buffer.reserve(self.n_rows, max(buffer.lengths) + 1)

    def append(self, layer_index: int, k: Tensor, v: Tensor, window: int | None) -> list[VisibleRows]:
        """Append one token to every row of a layer and return what each row sees of each buffer, in the heads' order.

        k, v: ``[n_rows, kv_heads, dim]``. window: the layer's sliding window.
        """
        visible, head = [], 0
        for buffer in self.layers[layer_index]:
            heads = slice(head, head := head + buffer.heads)
            step = self._step(buffer, k.device, window)
            buffer.keys[step.rows, :, step.positions] = k[:, heads]
            buffer.values[step.rows, :, step.positions] = v[:, heads]
            buffer.lengths = [m + 1 for m in buffer.lengths]
            visible.append(VisibleRows(heads, buffer.keys[: self.n_rows], buffer.values[: self.n_rows], step))
        return visible

    def _step(self, buffer: Buffer, device: torch.device, window: int | None) -> Step:
        """Buffers of the same lengths share the step's small tensors."""
        key = (device, window, tuple(buffer.lengths))
        if key not in self._steps:
            self._steps[key] = Step.of(buffer.lengths, window, device)
        return self._steps[key]

    def pairs(self, layer_index: int, slot: int) -> Pairs:
        """The pairs of one row in one layer, whose heads hold equally many."""
        pairs = [buffer.read(slot) for buffer in self.layers[layer_index]]
        return pairs[0] if len(pairs) == 1 else Pairs(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))

    def replace(self, layer_index: int, slot: int, pairs: Pairs) -> None:
        """Put these in the place of one row's pairs in one layer; they must not be views of them."""
        buffers = self.layers[layer_index]
        for buffer, part in zip(buffers, [pairs] if len(buffers) == 1 else pairs.by_head(), strict=True):
            buffer.write(slot, part)

    @property
    def nbytes_held(self) -> int:
        """Bytes of the entries in use."""
        return sum(buffer.nbytes_held for buffer in self.buffers)

    @property
    def nbytes_allocated(self) -> int:
        """Bytes of the buffers, room to grow included."""
        return sum(buffer.keys.nbytes + buffer.values.nbytes for buffer in self.buffers)

    @property
    def buffers(self) -> list[Buffer]:
        return [buffer for layer in self.layers for buffer in layer]


class Buffer:
    """Room for the pairs of some rows and heads: keys and values ``[slots, heads, capacity, dim]``.

    The row in a slot holds its first ``lengths[slot]`` entries in all heads; what lies beyond is never visible.
    """

    def __init__(self, like: Pairs, slots: int) -> None:
        """An empty buffer for as many heads as ``like`` has, of its dims, type and device."""
        self.keys = like.keys.new_empty(0, like.keys.shape[0], 0, like.keys.shape[2])
        self.values = like.values.new_empty(0, like.values.shape[0], 0, like.values.shape[2])
        self.lengths: list[int] = []
        self._slots = slots

    @property
    def heads(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes_held(self) -> int:
        """Bytes of the entries in use."""
        entry = self.keys.shape[3] * self.keys.element_size() + self.values.shape[3] * self.values.element_size()
        return sum(self.lengths) * self.heads * entry

    def read(self, slot: int) -> Pairs:
        m = self.lengths[slot]
        return Pairs(self.keys[slot, :, :m], self.values[slot, :, :m])

    def write(self, slot: int, pairs: Pairs) -> None:
        """Make these the pairs of a slot; the slot after the last one is a new row's."""
        m = pairs.keys.shape[1]
        self.lengths[slot : slot + 1] = [m]
        self.reserve(len(self.lengths), m + 1)
        for buffer, entries in ((self.keys, pairs.keys), (self.values, pairs.values)):
            buffer[slot, :, :m] = entries
            buffer[slot, :, m:] = 0

    def move(self, last: int, slot: int) -> None:
        """Move the last row to this slot, whose row leaves."""
        if slot != last:
            self.keys[slot] = self.keys[last]
            self.values[slot] = self.values[last]
            self.lengths[slot] = self.lengths[last]
        self.lengths.pop()

    def by_head(self) -> list[Buffer]:
        """The same rows in one buffer per head, each no longer than its own entries need."""
        like = Pairs(*(old.new_empty(1, 0, old.shape[3]) for old in (self.keys, self.values)))
        buffers = [Buffer(like, self._slots) for _ in range(self.heads)]
        for slot in range(len(self.lengths)):
            for buffer, head in zip(buffers, self.read(slot).by_head(), strict=True):
                buffer.write(slot, head)
        return buffers

    def resize(self, slots: int) -> None:
        """Make room for exactly this many rows, at least those there are."""
        self._slots = slots
        if slots > len(self.keys):
            self.keys, self.values = (_grown(old, slots, old.shape[2]) for old in (self.keys, self.values))
        elif slots < len(self.keys):
            self.keys, self.values = self.keys[:slots].clone(), self.values[:slots].clone()

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for at least this many rows of this many tokens."""
        slots, _, capacity, _ = self.keys.shape
        if rows <= slots and tokens <= capacity:
            return
        if tokens > capacity:  # one block more than needed: rows of a group differ by less than that
            capacity = (-(-tokens // BLOCK) + 1) * BLOCK
        if rows > slots:
            slots = max(rows, self._slots, 2 * slots)
        self.keys, self.values = (_grown(old, slots, capacity) for old in (self.keys, self.values))


def _empty_like(pairs: LayerPairs) -> Pairs:
    """Pairs of all heads of a layer that hold nothing."""
    return Pairs(torch.cat([p.keys[:, :0] for p in pairs]), torch.cat([p.values[:, :0] for p in pairs]))


def _grown(old: Tensor, slots: int, capacity: int) -> Tensor:
    new = old.new_zeros(slots, old.shape[1], capacity, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new
