"""A decode step of fixed shapes: every slot of the banks runs, whether a row is in it or not, and whatever changes from
step to step lies in tensors that the step itself moves on. So a device can record it once and replay it.

A slot without a row, or one whose row has ended, computes something nobody reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Backend, Options, Step, VisibleRows
from fairkv_eval.engine.batch import Bank, Row
from fairkv_eval.engine.buffer import Buffer
from fairkv_eval.engine.runner import Runner

Key = tuple[object, ...]


class StaticBank:
    """The slots of one bank, from place ``start`` of the step on. ``lengths`` ``[groups, slots]``, int64: the entries
    of each slot, per group of buffers whose rows are equally long."""

    def __init__(self, bank: Bank, start: int, device: torch.device) -> None:
        self.bank = bank
        self.slots = bank.cache.slots
        self.places = slice(start, start + self.slots)
        self.groups = _groups(bank)
        self.lengths = torch.zeros(len(self.groups), self.slots, dtype=torch.long, device=device)
        self.slot = torch.arange(self.slots, device=device)
        self._group = {id(buffer): index for index, group in enumerate(self.groups) for buffer in group}
        self.begin_step()

    def upload(self) -> None:
        """Bring the lengths of the rows that are in their slots now."""
        lengths = [_padded(group[0].lengths, self.slots) for group in self.groups]
        self.lengths.copy_(torch.tensor(lengths))

    def append(self, buffer: Buffer, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor, Step]:
        """Append one token per slot, k and v ``[slots, heads, dim]``: keys, values and step as of `Buffer.append`."""
        capacity = buffer.keys.shape[2]
        # A row that has ended may have no room left; it goes on in its last entry. Layers share what is alike in them.
        key = (self._group[id(buffer)], capacity, window)
        if key not in self._steps:
            positions = self.lengths[key[0]].clamp(max=capacity - 1)
            self._steps[key] = Step(self.slot, positions, 1, capacity, window)
        return *buffer.put_token(k, v, self._steps[key]), self._steps[key]

    def begin_step(self) -> None:
        """Forget the small tensors that layers of the last step shared."""
        self._steps: dict[tuple[int, int, int | None], Step] = {}

    def advance(self, n: int) -> None:
        """Note n more entries of every row, which the steps have written."""
        for group in self.groups:
            for buffer in group:
                buffer.lengths = [m + n for m in buffer.lengths]


class StaticStep:
    """One decode step of all slots of some banks; call it to run it.

    ``tokens``, the likeliest, and ``positions`` ``[1, places]`` are those of the next step; positions stay below
    ``ends``. ``logits`` ``[places, vocabulary]`` are those of the last step.
    """

    def __init__(self, banks: Sequence[Bank], runner: Runner, backend: Backend) -> None:
        self.runner = runner
        self.backend = backend
        self.key = key_of(banks)
        self.banks: list[StaticBank] = []
        places = 0
        for bank in banks:
            self.banks.append(StaticBank(bank, places, runner.device))
            places += bank.cache.slots
        self.tokens, self.positions, self.ends = torch.zeros(3, 1, places, dtype=torch.long, device=runner.device)
        self.logits: Tensor
        self.layer_index = 0

    def upload(self, ends: Mapping[Row, int]) -> None:
        """Bring the rows' last tokens, positions and lengths. ends: the position that each row does not go beyond."""
        columns: list[tuple[int, int, int]] = []
        for bank in self.banks:
            columns += [(row.tokens[-1], row.position, ends[row]) for row in bank.bank.rows]
            columns += [(0, 0, 0)] * (bank.slots - len(bank.bank.rows))
            bank.upload()
        state = torch.tensor(columns).T[:, None]
        for tensor, values in zip((self.tokens, self.positions, self.ends), state, strict=True):
            tensor.copy_(values)

    @property
    def state(self) -> list[Tensor]:
        """What a step moves on, besides the pairs that it appends."""
        return [self.tokens, self.positions, *(bank.lengths for bank in self.banks)]

    def put_tokens(self, places: Sequence[int], tokens: Sequence[int]) -> None:
        """Let these tokens stand at these places for the next step."""
        self.tokens[0, [*places]] = torch.tensor(tokens, device=self.tokens.device)

    @property
    def places(self) -> list[tuple[int, Row]]:
        """The rows, each with its place among the tokens."""
        return [(bank.places.start + i, row) for bank in self.banks for i, row in enumerate(bank.bank.rows)]

    def __call__(self) -> None:
        self.layer_index = 0
        for bank in self.banks:
            bank.begin_step()
        n = self.tokens.shape[1]
        self.logits = self.runner.logits(self, self.tokens, self.positions, n)
        self.tokens.copy_(self.logits.float().argmax(-1))
        self.positions.copy_(torch.minimum(self.positions + 1, self.ends))
        for bank in self.banks:
            bank.lengths += 1

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`; m is the number of places."""
        outputs = [self._attend(bank, q[0], k[0], v[0], options) for bank in self.banks]
        self.layer_index += 1
        return (outputs[0] if len(outputs) == 1 else torch.cat(outputs))[None]

    def _attend(self, bank: StaticBank, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """The slots of one bank, as `Decode` attends over its rows: ``[slots, heads, dim]``."""
        q, k, v = (states[:, bank.places].transpose(0, 1) for states in (q, k, v))
        grouped = q.reshape(len(q), k.shape[1], -1, q.shape[-1])
        outputs, head = [], 0
        for buffer in bank.bank.cache.layers[self.layer_index]:
            assert isinstance(buffer, Buffer)
            heads = slice(head, head := head + buffer.heads)
            visible = VisibleRows(heads, *bank.append(buffer, k[:, heads], v[:, heads], options.window))
            outputs.append(self.backend.rows(grouped[:, heads], visible, options))
        return torch.cat(outputs, 1).reshape(len(q), -1, v.shape[-1])


def key_of(banks: Sequence[Bank]) -> Key:
    """What a recorded step holds fast: where buffers lie, their sizes, and which of them have rows of one length."""
    key: list[object] = []
    for bank in banks:
        key += [bank.cache.slots, *(place for buffer in bank.cache.buffers for place in _memory(buffer))]
        key += [tuple(id(buffer) for buffer in group) for group in _groups(bank)]
    return tuple(key)


def _memory(buffer: object) -> tuple[object, ...]:
    assert isinstance(buffer, Buffer)
    return buffer.keys.data_ptr(), buffer.values.data_ptr(), *buffer.keys.shape


def _groups(bank: Bank) -> list[list[Buffer]]:
    """The buffers of a bank by the lengths of their rows."""
    groups: dict[tuple[int, ...], list[Buffer]] = {}
    for buffer in bank.cache.buffers:
        assert isinstance(buffer, Buffer)
        groups.setdefault(tuple(buffer.lengths), []).append(buffer)
    return [*groups.values()]


def _padded(lengths: Sequence[int], slots: int) -> list[int]:
    return [*lengths, *[0] * (slots - len(lengths))]
