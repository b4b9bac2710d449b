"""Room for the pairs of the rows that decode together, in some heads of one layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Step
from fairkv_eval.storage.pairs import Pairs, Stored

BLOCK = 128  # tokens a row buffer grows by; room beyond a row's entries is zeroed, since even a hidden NaN would spread


class Steps:
    """The small tensors of one decode step, which buffers of the same lengths share."""

    def __init__(self) -> None:
        self._steps: dict[tuple[torch.device, int | None, tuple[int, ...]], Step] = {}
        self._slots: dict[tuple[torch.device, tuple[int, ...]], Tensor] = {}

    def of(self, lengths: list[int], device: torch.device, window: int | None = None) -> Step:
        """The step of rows that hold so many entries before it."""
        key = (device, window, tuple(lengths))
        if key not in self._steps:
            self._steps[key] = Step.of(lengths, window, device)
        return self._steps[key]

    def indices(self, values: Sequence[int], device: torch.device) -> Tensor:
        """These numbers as int64 ``[len(values), 1]``."""
        key = (device, tuple(values))
        if key not in self._slots:
            self._slots[key] = torch.tensor(values, dtype=torch.long, device=device)[:, None]
        return self._slots[key]


class Buffer:
    """Room for the pairs of some rows and heads: keys and values ``[slots, heads, capacity, dim]``.

    The row in a slot holds its first ``lengths[slot]`` entries in all heads; what lies beyond is never visible. most:
    how many tokens a row will ever hold, if that is known.
    """

    def __init__(self, like: Pairs, slots: int, most: int | None = None) -> None:
        """An empty buffer for as many heads as ``like`` has, of its dims, type and device."""
        self.keys, self.values = (t.new_empty(0, t.shape[0], 0, t.shape[2]) for t in like)
        self.lengths: list[int] = []
        self._slots = slots
        self._most = most

    @property
    def heads(self) -> int:
        return self.keys.shape[1]

    @property
    def nbytes_held(self) -> int:
        """Bytes of the entries in use."""
        entry = self.keys.shape[3] * self.keys.element_size() + self.values.shape[3] * self.values.element_size()
        return sum(self.lengths) * self.heads * entry

    @property
    def nbytes_allocated(self) -> int:
        """Bytes of the buffer, room to grow included."""
        return self.keys.nbytes + self.values.nbytes

    def begin_step(self, steps: Steps) -> None:
        """Make room for one more token per row."""
        self.reserve(len(self.lengths), max(self.lengths) + 1)

    def append(self, k: Tensor, v: Tensor, window: int | None, steps: Steps) -> tuple[Tensor, Tensor, Step]:
        """Append one token to every row, k and v ``[rows, heads, dim]``. Return keys and values as the rows see them,
        ``[rows, heads, capacity, dim]``, and the step."""
        step = steps.of(self.lengths, k.device, window)
        keys, values = self.put_token(k, v, step)
        self.lengths = [m + 1 for m in self.lengths]
        return keys, values, step

    def put_token(self, k: Tensor, v: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """Write one token per row where the step says, and change nothing else. Returns what `append` returns."""
        self.keys[step.rows, :, step.positions] = k
        self.values[step.rows, :, step.positions] = v
        return self.keys[: len(k)], self.values[: len(k)]

    def read(self, slot: int) -> Pairs:
        """The pairs of the row in a slot; views."""
        m = self.lengths[slot]
        return Pairs(self.keys[slot, :, :m], self.values[slot, :, :m])

    def write(self, slot: int, pairs: Stored) -> None:
        """Make these the pairs of a slot; the slot after the last one is a new row's."""
        pairs = pairs.plain()
        self.lengths[slot : slot + 1] = [pairs.length]
        self.reserve(len(self.lengths), pairs.length + 1)
        put(self.keys, slot, pairs.keys)
        put(self.values, slot, pairs.values)

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
        buffers = [Buffer(like, self._slots, self._most) for _ in range(self.heads)]
        for slot in range(len(self.lengths)):
            for buffer, head in zip(buffers, self.read(slot).by_head(), strict=True):
                buffer.write(slot, head)
        return buffers

    def resize(self, slots: int) -> None:
        """Make room for exactly this many rows, at least those there are."""
        self._slots = slots
        self.keys, self.values = (resized(old, slots) for old in (self.keys, self.values))

    def reserve(self, rows: int, tokens: int) -> None:
        """Make room for at least this many rows of this many tokens."""
        slots, _, capacity, _ = self.keys.shape
        tokens = min(tokens, self._most or tokens)
        if rows <= slots and tokens <= capacity:
            return
        if tokens > capacity:
            capacity = min(with_room(tokens), self._most or with_room(tokens))
        slots = more_slots(rows, slots, self._slots)
        self.keys, self.values = (grown(old, slots, capacity) for old in (self.keys, self.values))


def with_room(tokens: int) -> int:
    """Tokens in whole blocks, one more than needed: rows of a group differ by less than that."""
    return (-(-tokens // BLOCK) + 1) * BLOCK


def more_slots(rows: int, slots: int, planned: int) -> int:
    """Slots for this many rows: those there are, or those that were planned, or twice as many as there are."""
    return slots if rows <= slots else max(rows, planned, 2 * slots)


def put(buffer: Tensor, slot: int, entries: Tensor) -> None:
    """Write entries ``[heads, m, width]`` to a slot of ``[slots, heads, capacity, width]``, and zeros behind them."""
    m = entries.shape[1]
    buffer[slot, :, :m] = entries
    buffer[slot, :, m:] = 0


def grown(old: Tensor, slots: int, capacity: int) -> Tensor:
    """A larger ``[slots, heads, capacity, width]`` that begins with the old one's entries."""
    new = old.new_zeros(slots, old.shape[1], capacity, old.shape[3])
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def resized(old: Tensor, slots: int) -> Tensor:
    """The same with exactly so many slots."""
    if slots > len(old):
        return grown(old, slots, old.shape[2])
    return old[:slots].clone() if slots < len(old) else old
