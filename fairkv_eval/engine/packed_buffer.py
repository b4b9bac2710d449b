"""Room for the packed pairs of the rows that decode together, and the place where they are unpacked to attend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Step
from fairkv_eval.engine.buffer import Buffer, Steps, grown, more_slots, put, resized, with_room
from fairkv_eval.storage.pairs import PackedPairs, Stored
from fairkv_eval.storage.storage import Codec


class Scratch:
    """Memory that the layers of a cache unpack into, one after another."""

    def __init__(self) -> None:
        self._flat: dict[tuple[object, ...], Tensor] = {}

    def take(self, name: tuple[object, ...], shape: Sequence[int], like: Tensor) -> Tensor:
        """A tensor of this shape and of the other's type and device; its content is what was last written there."""
        key, size = (*name, like.dtype, like.device), prod(shape)
        if key not in self._flat or self._flat[key].numel() < size:
            self._flat.pop(key, None)
            self._flat[key] = like.new_empty(size)
        return self._flat[key][:size].view(*shape)

    @property
    def nbytes(self) -> int:
        return sum(flat.nbytes for flat in self._flat.values())


class PackedBuffer:
    """Room for the pairs of some rows and heads, of which the newest are plain. See `Buffer` and `PackedPairs`.

    The tensors of the codecs are ``[slots, heads, capacity, width]``. A token is appended plain; before the next step,
    the pairs that have left a row's window are packed. name: tells this buffer's unpacked pairs from those of the same
    layer's other heads.
    """

    def __init__(self, like: PackedPairs, slots: int, scratch: Scratch, name: int = 0) -> None:
        self.like = like.emptied(like.heads)
        self.storage, self.codecs = like.storage, like.codecs
        self.keys, self.values = (
            [part.new_empty(0, like.heads, 0, part.shape[2]) for part in parts] for parts in (like.keys, like.values)
        )
        self.newest = Buffer(self.like.newest, slots, self.storage.window + self.storage.unit)
        self.packed: list[int] = []
        self.channels = self.like.channels and self.like.channels.in_slots(0)
        self._slots = slots
        self._scratch = scratch
        self._name = name

    @property
    def heads(self) -> int:
        return self.like.heads

    @property
    def lengths(self) -> list[int]:
        """Pairs of each row."""
        return [packed + newest for packed, newest in zip(self.packed, self.newest.lengths, strict=True)]

    @property
    def nbytes_held(self) -> int:
        """Bytes of the entries in use."""
        packed = sum(codec.nbytes(n) for codec in self.codecs for n in self.packed)
        channels = len(self.packed) * self.like.channels.nbytes if self.like.channels else 0
        return packed * self.heads + self.newest.nbytes_held + channels

    @property
    def nbytes_allocated(self) -> int:
        """Bytes of the buffer, room to grow included."""
        channels = self.channels.nbytes if self.channels else 0
        return sum(part.nbytes for part in (*self.keys, *self.values)) + self.newest.nbytes_allocated + channels

    def begin_step(self, steps: Steps) -> None:
        """Pack what has left the windows of its rows, and make room for one more token per row."""
        full = self.storage.window + self.storage.unit
        due = [slot for slot, m in enumerate(self.newest.lengths) if m >= full]
        self.reserve(len(self.packed), max(self.packed) + self.storage.unit)
        if due:
            self._pack(due, steps)
        self.newest.begin_step(steps)

    def _pack(self, due: Sequence[int], steps: Steps) -> None:
        """Pack the oldest plain pairs of these rows: one unit of each, since a row grows by one pair per step."""
        unit, longest = self.storage.unit, max(self.newest.lengths[slot] for slot in due)
        slots = steps.indices(due, self.newest.keys.device)
        at = steps.indices([self.packed[slot] for slot in due], slots.device)
        for codec, parts, plain in self._sides():
            encoded = codec.encode(plain[slots[:, 0], :, :unit])
            for part, entries, (tokens, _) in zip(parts, encoded, codec.shapes, strict=True):
                places = at // tokens + torch.arange(entries.shape[2], device=at.device)
                part[slots, :, places] = entries.transpose(1, 2)
            if longest > unit:
                plain[slots[:, 0], :, : longest - unit] = plain[slots[:, 0], :, unit:longest]
        for slot in due:
            self.packed[slot] += unit
            self.newest.lengths[slot] -= unit

    def append(self, k: Tensor, v: Tensor, window: int | None, steps: Steps) -> tuple[Tensor, Tensor, Step]:
        """See `Buffer.append`. What is returned is turned as the storage turns it, and valid until the next layer."""
        step = steps.of(self.lengths, k.device, window)
        channels = self.channels and self.channels.first(len(self.packed))
        if channels:
            k = channels.of(k[:, :, None])[:, :, 0]
        _, _, newest = self.newest.append(self.storage.turned(k), self.storage.turned(v), None, steps)
        keys, values = (self._unpacked(side, newest, steps) for side in (0, 1))
        return channels.filled(keys) if channels else keys, values, step

    def _unpacked(self, side: int, newest: Step, steps: Steps) -> Tensor:
        """The keys (side 0) or values (1) of all rows, ``[rows, heads, room, dim]``."""
        codec, parts, plain = [*self._sides()][side]
        rows, longest = len(self.packed), max(self.packed)
        shape = (rows, self.heads, longest + newest.longest, plain.shape[3])
        out = self._scratch.take((self._name, side), shape, plain)
        held = (part[:rows, :, : longest // tokens] for part, (tokens, _) in zip(parts, codec.shapes, strict=True))
        codec.decode(tuple(held), out[:, :, :longest])
        out[:, :, longest:] = 0
        places = steps.indices(self.packed, out.device) + torch.arange(newest.longest, device=out.device)
        out[newest.rows[:, None], :, places] = plain[:rows, :, : newest.longest].transpose(1, 2)
        return out

    def _sides(self) -> Iterator[tuple[Codec, list[Tensor], Tensor]]:
        """Keys, then values: the codec, its tensors, and the plain entries."""
        return zip(self.codecs, (self.keys, self.values), (self.newest.keys, self.newest.values), strict=True)

    def read(self, slot: int) -> PackedPairs:
        """The pairs of the row in a slot; views."""
        n = self.packed[slot]
        keys, values = (
            tuple(part[slot, :, : n // tokens] for part, (tokens, _) in zip(parts, codec.shapes, strict=True))
            for codec, parts, _ in self._sides()
        )
        channels = self.channels and self.channels.in_slot(slot)
        return PackedPairs(self.storage, keys, values, self.newest.read(slot), channels)

    def write(self, slot: int, pairs: Stored) -> None:
        """Make these the pairs of a slot; the slot after the last one is a new row's."""
        assert isinstance(pairs, PackedPairs)
        self.packed[slot : slot + 1] = [pairs.n_packed]
        self.reserve(len(self.packed), pairs.n_packed)
        for part, entries in zip((*self.keys, *self.values), (*pairs.keys, *pairs.values), strict=True):
            put(part, slot, entries)
        if self.channels and pairs.channels:
            self.channels.index[slot] = pairs.channels.index
        self.newest.write(slot, pairs.newest)

    def move(self, last: int, slot: int) -> None:
        """Move the last row to this slot, whose row leaves."""
        if slot != last:
            for part in (*self.keys, *self.values):
                part[slot] = part[last]
            if self.channels:
                self.channels.index[slot] = self.channels.index[last]
            self.packed[slot] = self.packed[last]
        self.packed.pop()
        self.newest.move(last, slot)

    def by_head(self) -> list[PackedBuffer]:
        """The same rows in one buffer per head, each no longer than its own entries need."""
        like = self.like.emptied(1)
        buffers = [PackedBuffer(like, self._slots, self._scratch, name) for name in range(self.heads)]
        for slot in range(len(self.packed)):
            for buffer, head in zip(buffers, self.read(slot).by_head(), strict=True):
                buffer.write(slot, head)
        return buffers

    def resize(self, slots: int) -> None:
        """Make room for exactly this many rows, at least those there are."""
        self._slots = slots
        self.keys, self.values = ([resized(part, slots) for part in parts] for parts in (self.keys, self.values))
        self.channels = self.channels and self.channels.resized(slots)
        self.newest.resize(slots)

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for at least this many rows of this many packed tokens."""
        slots, _, capacity, _ = self.keys[0].shape
        if rows <= slots and tokens <= capacity:
            return
        if tokens > capacity:
            capacity = with_room(tokens)
        slots = more_slots(rows, slots, self._slots)
        self.channels = self.channels and self.channels.resized(slots)
        for codec, parts, _ in self._sides():
            capacities = [-(-capacity // tokens) for tokens, _ in codec.shapes]
            parts[:] = [grown(part, slots, room) for part, room in zip(parts, capacities, strict=True)]
