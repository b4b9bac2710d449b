"""The running batch: rows that decode together, those of like length in one cache.

The rows of a cache share buffers as long as the longest of them, so rows of very different lengths are kept apart: a
short row beside a long one costs its own memory and attends over its own keys.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairkv_eval.engine.cache import BLOCK, Pairs, RowCache
from fairkv_eval.engine.jobs import Generate, Result
from fairkv_eval.engine.rolling import Rolling
from fairkv_eval.engine.sampling import Sampler

Layers = Sequence[Sequence[Pairs]]


@dataclass(eq=False)
class Row:
    """A generation in the running batch: what it has said, and where its next token goes."""

    index: int
    want: Generate
    position: int
    sampler: Sampler
    telemetry: dict[str, Any]
    rolling: Rolling | None = None
    tokens: list[int] = field(default_factory=list)
    entropy: float = 0.0  # nats, summed over the tokens, where asked for

    @property
    def result(self) -> Result:
        """What it has said so far, and what there is to tell of it."""
        told = {**self.telemetry, "generated_tokens": len(self.tokens)}
        if self.want.entropy:
            told["response_entropy"] = self.entropy / len(self.tokens)
        return Result(told, tokens=tuple(self.tokens))


@dataclass(eq=False)
class Bank:
    """Rows of like length and the cache that holds their pairs, slot by slot. uneven: heads may differ in length."""

    uneven: bool
    cache: RowCache
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row, layers: Layers) -> None:
        self.cache.add(layers)
        self.rows.append(row)

    def remove(self, gone: Collection[Row]) -> None:
        """Drop rows; the last row takes the slot of each."""
        for slot in range(len(self.rows) - 1, -1, -1):
            if self.rows[slot] in gone:
                self.cache.remove(slot)
                self.rows[slot] = self.rows[-1]
                self.rows.pop()


class Batch:
    """At most ``most`` rows, in banks. Where two banks hold rows of the same size, the smaller joins the larger.

    A bank that is empty keeps its buffers for the next rows, until rows of another size come.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.banks: list[Bank] = []

    def __len__(self) -> int:
        return sum(len(bank.rows) for bank in self.banks)

    @property
    def rows(self) -> list[Row]:
        """All rows in the order in which a decode step runs them."""
        return [row for bank in self.banks for row in bank.rows]

    @property
    def caches(self) -> list[RowCache]:
        """The caches that hold rows, in the order of `rows`."""
        return [bank.cache for bank in self.banks if bank.rows]

    @property
    def nbytes_allocated(self) -> int:
        """Bytes of all buffers, room to grow included."""
        return sum(bank.cache.nbytes_allocated for bank in self.banks)

    def add(self, fresh: Sequence[tuple[Row, Layers]]) -> None:
        """Take in rows with their pairs, layer by layer."""
        kinds: dict[tuple[bool, int], list[tuple[Row, Layers]]] = {}
        for row, layers in fresh:
            kinds.setdefault((_uneven(layers), size_class(_longest(layers))), []).append((row, layers))
        for (uneven, size), group in kinds.items():
            bank = self._bank(uneven, size)
            self._make_room(bank, len(group))
            for row, layers in group:
                bank.add(row, layers)

    def remove(self, gone: Collection[Row]) -> None:
        """Drop rows that have stopped."""
        for bank in self.banks if gone else ():
            bank.remove(gone)

    def settle(self) -> None:
        """Let banks whose rows have grown to the same size become one. Call once before each decode step."""
        found: dict[tuple[bool, int], Bank] = {}
        for bank in sorted(self.banks, key=lambda bank: -len(bank.rows)):
            if not bank.rows:
                continue
            kind = bank.uneven, size_class(bank.cache.longest)
            into = found.setdefault(kind, bank)
            if into is not bank:
                self._make_room(into, len(bank.rows))
                for slot, row in enumerate(bank.rows):
                    into.add(row, bank.cache.layers_of(slot))
                self.banks.remove(bank)

    def _bank(self, uneven: bool, size: int) -> Bank:
        for bank in self.banks:
            if bank.uneven == uneven and (not bank.rows or size_class(bank.cache.longest) == size):
                return bank
        self.banks = [bank for bank in self.banks if bank.rows]
        self.banks.append(Bank(uneven, RowCache(0)))
        return self.banks[-1]

    def _make_room(self, bank: Bank, more: int) -> None:
        """Slots for more rows in a bank: double those it has, as far as all banks together have no more than ``most``.

        Where they would, the others first give up slots that stand empty.
        """
        needed = len(bank.rows) + more
        if needed <= bank.cache.slots:
            return
        others = [other.cache for other in self.banks if other is not bank]
        if self.most - sum(cache.slots for cache in others) < needed:
            for cache in others:
                cache.resize(cache.rows)
        free = self.most - sum(cache.slots for cache in others)
        bank.cache.resize(max(needed, min(2 * bank.cache.slots, free)))


def size_class(pairs: int) -> int:
    """Rows of one class differ in length by less than a factor of two, or by less than a block."""
    return (pairs // BLOCK).bit_length()


def _longest(layers: Layers) -> int:
    return max(own.keys.shape[1] for own in _all(layers))


def _uneven(layers: Layers) -> bool:
    return any(len(pairs) > 1 for pairs in layers)


def _all(layers: Layers) -> Iterable[Pairs]:
    return (own for pairs in layers for own in pairs)
