"""Where KV pairs live: what is left of a context after eviction, and the rows of the running batch.

KV heads that hold equally many pairs share a tensor; heads of different lengths have one each, so that what an uneven
budget saves is really saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Options, Shown, Step

BLOCK = 128  # tokens a row buffer grows by; room beyond a row's entries is zeroed, since even a hidden NaN would spread


class Pairs(NamedTuple):
    """KV pairs of consecutive KV heads that hold equally many: keys and values ``[heads, m, dim]``.

    A layer of a context or of a row is a list of these that covers its heads in order: one of all heads, or one a head.
    """

    keys: Tensor
    values: Tensor

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def by_head(self) -> list[Pairs]:
        """The same pairs, head by head."""
        return [Pairs(k, v) for k, v in zip(self.keys.split(1), self.values.split(1), strict=True)]


@dataclass
class ContextCache:
    """The KV pairs of one context, layer by layer.

    ``tokens`` is the context's length and ``position`` that of the token after it: the same, unless the kept keys moved
    up to consecutive positions. ``full_bytes`` and ``full_pairs`` are what the same layers hold without eviction.
    ``segments`` is the part of each segment's pairs that was kept, over the layers and heads that evict. For rows with
    a decode budget ``observed`` holds, by layer, the positions of the kept pairs and the attention they received from
    the context's queries, both ``[kv_heads, m]``.
    """

    tokens: int
    position: int = 0
    layers: list[list[Pairs]] = field(default_factory=list)
    full_bytes: int = 0
    full_pairs: int = 0
    segments: dict[str, float] = field(default_factory=dict)
    observed: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.position = self.position or self.tokens

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors held."""
        return sum(pairs.nbytes for layer in self.layers for pairs in layer)

    @property
    def pairs(self) -> int:
        """KV pairs held, summed over layers and heads."""
        return sum(pairs.keys.shape[0] * pairs.keys.shape[1] for layer in self.layers for pairs in layer)


class RowCache:
    """KV pairs of the rows that decode together: per layer a `Buffer` for all heads, or one a head.

    A layer begins with one buffer and is split by heads when a row comes whose heads differ in length. Rows occupy the
    slots 0 … rows−1: one that leaves is replaced by the last. Buffers have room for ``slots`` rows from the start and
    after `resize` (and double where more come), grow by blocks of tokens, and lie on their layer's own device.
    """

    def __init__(self, slots: int = 1) -> None:
        self.rows = 0
        self.slots = slots
        self.layers: list[list[Buffer]] = []
        self._steps: dict[tuple, Step] = {}

    def add(self, layers: Sequence[Sequence[Pairs]]) -> None:
        """Append a row from its layers' pairs."""
        if not self.layers:
            self.layers = [[Buffer(_join(pairs), self.slots)] for pairs in layers]
        row, self.rows = self.rows, self.rows + 1
        for layer, pairs in enumerate(layers):
            if len(pairs) > len(self.layers[layer]):
                self.layers[layer] = self.layers[layer][0].by_head()
            elif len(pairs) < len(self.layers[layer]):
                pairs = pairs[0].by_head()
            for buffer, own in zip(self.layers[layer], pairs, strict=True):
                buffer.write(row, own)

    def resize(self, slots: int) -> None:
        """Give the buffers room for so many rows, and not for fewer than there are."""
        self.slots = max(slots, self.rows)
        for buffer in self._buffers():
            buffer.resize(self.slots)

    def layers_of(self, row: int) -> list[list[Pairs]]:
        """The pairs of one row, layer by layer; views of the buffers."""
        return [[buffer.read(row) for buffer in buffers] for buffers in self.layers]

    @property
    def longest(self) -> int:
        """Pairs of the longest head of any row."""
        return max((m for buffer in self._buffers() for m in buffer.lengths), default=0)

    def remove(self, row: int) -> None:
        """Drop a row; the last row takes its slot."""
        self.rows -= 1
        for buffer in self._buffers():
            buffer.move(self.rows, row)

    def begin_step(self) -> None:
        """Make room for one more token a row. Call once before each decode step."""
        self._steps = {}
        for buffer in self._buffers():
            buffer.reserve(self.rows, max(buffer.lengths) + 1)

    def append(self, layer: int, k: Tensor, v: Tensor, options: Options) -> list[Shown]:
        """Append one token to every row of a layer and show what each row may see.

        k, v: ``[rows, kv_heads, dim]``. Returns what each buffer of the layer shows, in the order of their heads.
        """
        shown, head = [], 0
        for buffer in self.layers[layer]:
            heads = slice(head, head := head + buffer.heads)
            key = (k.device, options.window, tuple(buffer.lengths))
            step = self._steps.get(key)
            if step is None:  # buffers that share lengths share the step's small tensors
                step = self._steps[key] = Step.of(buffer.lengths, options.window, k.device)
            buffer.keys[step.rows, :, step.positions] = k[:, heads]
            buffer.values[step.rows, :, step.positions] = v[:, heads]
            buffer.lengths = [m + 1 for m in buffer.lengths]
            shown.append(Shown(heads, buffer.keys[: self.rows], buffer.values[: self.rows], step))
        return shown

    def row(self, layer: int, row: int) -> Pairs:
        """The pairs of one row in one layer, whose heads hold equally many."""
        pairs = [buffer.read(row) for buffer in self.layers[layer]]
        return pairs[0] if len(pairs) == 1 else Pairs(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))

    def replace(self, layer: int, row: int, pairs: Pairs) -> None:
        """Put these in the place of one row's pairs in one layer; they must not be views of them."""
        buffers = self.layers[layer]
        for buffer, own in zip(buffers, [pairs] if len(buffers) == 1 else pairs.by_head(), strict=True):
            buffer.write(row, own)

    @property
    def nbytes_held(self) -> int:
        """Bytes of the entries in use."""
        return sum(buffer.nbytes_held for buffer in self._buffers())

    @property
    def nbytes_allocated(self) -> int:
        """Bytes of the buffers, room to grow included."""
        return sum(buffer.keys.nbytes + buffer.values.nbytes for buffer in self._buffers())

    def _buffers(self) -> list[Buffer]:
        return [buffer for layer in self.layers for buffer in layer]


class Buffer:
    """Room for the pairs of some rows and heads: keys and values ``[slots, heads, capacity, dim]``.

    Row r holds its first ``lengths[r]`` entries in all heads; what lies beyond is never visible.
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

    def read(self, row: int) -> Pairs:
        m = self.lengths[row]
        return Pairs(self.keys[row, :, :m], self.values[row, :, :m])

    def write(self, row: int, pairs: Pairs) -> None:
        """Make these the row's pairs; a row that follows the last one is new."""
        m = pairs.keys.shape[1]
        self.lengths[row : row + 1] = [m]
        self.reserve(len(self.lengths), m + 1)
        for buffer, entries in ((self.keys, pairs.keys), (self.values, pairs.values)):
            buffer[row, :, :m] = entries
            buffer[row, :, m:] = 0

    def move(self, last: int, row: int) -> None:
        """The last row takes the place of this one and leaves its own."""
        if row != last:
            self.keys[row] = self.keys[last]
            self.values[row] = self.values[last]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()

    def by_head(self) -> list[Buffer]:
        """The same rows in a buffer a head, each no longer than its own entries need."""
        like = Pairs(*(old.new_empty(1, 0, old.shape[3]) for old in (self.keys, self.values)))
        buffers = [Buffer(like, self._slots) for _ in range(self.heads)]
        for row in range(len(self.lengths)):
            for buffer, own in zip(buffers, self.read(row).by_head(), strict=True):
                buffer.write(row, own)
        return buffers

    def resize(self, slots: int) -> None:
        """Room for so many rows, not fewer than there are."""
        self._slots = slots
        if slots > len(self.keys):
            self.keys, self.values = (_grown(old, slots, old.shape[2]) for old in (self.keys, self.values))
        elif slots < len(self.keys):
            self.keys, self.values = self.keys[:slots].clone(), self.values[:slots].clone()

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for so many rows of so many tokens."""
        slots, _, capacity, _ = self.keys.shape
        if rows <= slots and tokens <= capacity:
            return
        if tokens > capacity:  # one block more than needed: rows of a group differ by less than that
            capacity = (-(-tokens // BLOCK) + 1) * BLOCK
        if rows > slots:
            slots = max(rows, self._slots, 2 * slots)
        self.keys, self.values = (_grown(old, slots, capacity) for old in (self.keys, self.values))


def _join(pairs: Sequence[Pairs]) -> Pairs:
    """Empty pairs for all heads of a layer."""
    return Pairs(torch.cat([p.keys[:, :0] for p in pairs]), torch.cat([p.values[:, :0] for p in pairs]))


def _grown(old: Tensor, slots: int, capacity: int) -> Tensor:
    new = old.new_zeros(slots, old.shape[1], capacity, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new
