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

from fairkv_eval.attention.backend import VisibleRows
from fairkv_eval.engine.buffer import Buffer, Steps
from fairkv_eval.engine.packed_buffer import PackedBuffer, Scratch
from fairkv_eval.storage.pairs import Pairs, Stored
from fairkv_eval.storage.storage import PLAIN, Storage

LayerPairs = list[Stored]  # of one layer of a context or row: one for all heads, or one per head


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
    ones; ``thresholds``: from which similarity, by layer index (see `Merged`). ``storage``: how pairs are held.
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
    storage: Storage = PLAIN

    def __post_init__(self) -> None:
        self.position = self.position or self.n_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return sum(pairs.nbytes for layer in self.layers for pairs in layer)

    @property
    def pairs(self) -> int:
        """KV pairs held, summed over layers and heads."""
        return sum(pairs.heads * pairs.length for layer in self.layers for pairs in layer)


class RowCache:
    """KV pairs of the rows that decode together: per layer a `Buffer` for all heads, or one per head.

    A layer begins with one buffer and is split by heads when a row comes whose heads differ in length. Rows occupy the
    slots 0 … n_rows−1: one that leaves is replaced by the last. Buffers have room for ``slots`` rows from the start and
    after `resize` (and double if more come), grow by blocks of tokens, and lie on their layer's own device.
    """

    def __init__(self, slots: int = 1) -> None:
        self.n_rows = 0
        self.slots = slots
        self.layers: list[Sequence[Buffer | PackedBuffer]] = []
        self.storage = PLAIN  # of all rows
        self._steps = Steps()
        self._scratch = Scratch()

    def add(self, layers: Sequence[LayerPairs]) -> None:
        """Append a row, its pairs layer by layer."""
        if not self.layers:
            self.storage = layers[0][0].storage
            self.layers = [[self._buffer(pairs)] for pairs in layers]
        slot, self.n_rows = self.n_rows, self.n_rows + 1
        for index, pairs in enumerate(layers):
            if len(pairs) > len(self.layers[index]):
                self.layers[index] = self.layers[index][0].by_head()
            parts = pairs if len(pairs) == len(self.layers[index]) else pairs[0].by_head()
            for buffer, part in zip(self.layers[index], parts, strict=True):
                buffer.write(slot, part)

    def _buffer(self, pairs: LayerPairs) -> Buffer | PackedBuffer:
        """An empty buffer for all heads of a layer that holds pairs as these."""
        like = pairs[0].emptied(sum(part.heads for part in pairs))
        return Buffer(like, self.slots) if isinstance(like, Pairs) else PackedBuffer(like, self.slots, self._scratch)

    def resize(self, slots: int) -> None:
        """Give the buffers room for this many rows, or for all rows there are if they are more."""
        self.slots = max(slots, self.n_rows)
        for buffer in self.buffers:
            buffer.resize(self.slots)

    def reserve(self, tokens: Sequence[int]) -> None:
        """Make room in all slots for so many more tokens of each row; of plain pairs only."""
        for buffer in self.buffers:
            buffer.reserve(self.slots, max(m + n for m, n in zip(buffer.lengths, tokens, strict=True)))

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
        self._steps = Steps()
        for buffer in self.buffers:
            buffer.begin_step(self._steps)

    def append(self, layer_index: int, k: Tensor, v: Tensor, window: int | None) -> list[VisibleRows]:
        """Append one token to every row of a layer and return what each row sees of each buffer, in the heads' order.

        k, v: ``[n_rows, kv_heads, dim]``. window: the layer's sliding window.
        """
        visible, head = [], 0
        for buffer in self.layers[layer_index]:
            heads = slice(head, head := head + buffer.heads)
            visible.append(VisibleRows(heads, *buffer.append(k[:, heads], v[:, heads], window, self._steps)))
        return visible

    def pairs(self, layer_index: int, slot: int) -> Pairs:
        """The pairs of one row in one layer, whose heads hold equally many; unpacked."""
        pairs = [buffer.read(slot).plain() for buffer in self.layers[layer_index]]
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
        """Bytes of the buffers, room to grow included, and of the memory that packed pairs are unpacked into."""
        return sum(buffer.nbytes_allocated for buffer in self.buffers) + self._scratch.nbytes

    @property
    def buffers(self) -> list[Buffer | PackedBuffer]:
        return [buffer for layer in self.layers for buffer in layer]
