"""The running batch: rows that decode together, those of like length in one cache.

The rows of a cache share buffers as long as the longest of them, so rows of very different lengths are kept apart: a
short row beside a long one costs its own memory and attends over its own keys.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fairkv_eval.engine.buffer import BLOCK
from fairkv_eval.engine.cache import LayerPairs, RowCache
from fairkv_eval.engine.decode_budget import DecodeBudget
from fairkv_eval.engine.jobs import Generation
from fairkv_eval.engine.result import Result, merge_rate
from fairkv_eval.engine.sampling import Sampler
from fairkv_eval.storage.storage import Storage

RowPairs = Sequence[LayerPairs]  # of one row, layer by layer


class Kind(NamedTuple):
    """What rows of one cache have in common: whether heads may differ in length, and how pairs are held."""

    uneven: bool
    storages: tuple[Storage, ...]  # layer by layer: a sliding window may hold more channels

    @classmethod
    def of(cls, pairs: RowPairs) -> Kind:
        return cls(any(len(layer) > 1 for layer in pairs), tuple(layer[0].storage for layer in pairs))


@dataclass(eq=False)
class Row:
    """A generation in the running batch: its tokens, and the position of the next one."""

    index: int
    want: Generation
    position: int
    sampler: Sampler
    telemetry: dict[str, Any]
    budget: DecodeBudget | None = None
    tokens: list[int] = field(default_factory=list)
    entropy: float = 0.0  # nats, summed over the tokens, if reported

    def advance(self, token: int) -> None:
        """Append the token that a decode step chose."""
        self.position = self.budget.next_position if self.budget else self.position + 1
        self.tokens.append(token)

    @property
    def result(self) -> Result:
        """The tokens generated so far, with telemetry."""
        telemetry = {**self.telemetry, "generated_tokens": len(self.tokens)}
        if self.want.entropy:
            telemetry["response_entropy"] = self.entropy / len(self.tokens)
        if self.budget and self.budget.merge != "none":
            telemetry |= merge_rate("decode_merge_rate", self.budget.merged_pairs, self.budget.evicted_pairs)
        return Result(telemetry, tokens=tuple(self.tokens))


@dataclass(eq=False)
class Bank:
    """Rows of like length and kind, and the cache that holds their pairs, slot by slot."""

    kind: Kind
    cache: RowCache
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row, pairs: RowPairs) -> None:
        self.cache.add(pairs)
        self.rows.append(row)

    def remove(self, rows: Collection[Row]) -> None:
        """Drop rows; the last row takes the slot of each."""
        for slot in range(len(self.rows) - 1, -1, -1):
            if self.rows[slot] in rows:
                self.cache.remove(slot)
                self.rows[slot] = self.rows[-1]
                self.rows.pop()


class Batch:
    """At most ``max_rows`` rows, in banks. If two banks hold rows of the same size, the smaller joins the larger.

    A bank that is empty keeps its buffers for the next rows, until rows of another size come. ``ended``: rows that
    count no more, and are dropped before rows enter or the batch settles. ``entered``: how many rows have come so far.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.banks: list[Bank] = []
        self.ended: set[Row] = set()
        self.entered = 0

    def __len__(self) -> int:
        return sum(len(bank.rows) for bank in self.banks) - len(self.ended)

    @property
    def places(self) -> int:
        """How many rows may enter."""
        return self.max_rows - len(self)

    @property
    def has_room(self) -> bool:
        """Whether a quarter of the places is free: rows that enter one by one would cost a forward pass each."""
        return self.places >= max(1, self.max_rows // 4)

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

    def add(self, entering: Sequence[tuple[Row, RowPairs]]) -> None:
        """Take in rows with their pairs."""
        self.entered += len(entering)
        by_bank: dict[tuple[Kind, int], list[tuple[Row, RowPairs]]] = {}
        for row, pairs in entering:
            by_bank.setdefault((Kind.of(pairs), size_class(_longest(pairs))), []).append((row, pairs))
        for (kind, size), rows in by_bank.items():
            bank = self._bank(kind, size)
            self._make_room(bank, len(rows))
            for row, pairs in rows:
                bank.add(row, pairs)

    def end(self, rows: Collection[Row]) -> None:
        """Count these rows no more."""
        self.ended.update(rows)

    def drop_ended(self) -> None:
        """Drop the rows that have ended. Call before rows enter."""
        for bank in self.banks if self.ended else ():
            bank.remove(self.ended)
        self.ended.clear()

    def settle(self) -> None:
        """Drop the rows that have ended, and let banks whose rows have grown to the same size become one. Call before
        a decode step of all rows."""
        self.drop_ended()
        largest: dict[tuple[Kind, int], Bank] = {}
        for bank in sorted(self.banks, key=lambda bank: -len(bank.rows)):
            if not bank.rows:
                continue
            target = largest.setdefault((bank.kind, size_class(bank.cache.longest)), bank)
            if target is not bank:
                self._make_room(target, len(bank.rows))
                for slot, row in enumerate(bank.rows):
                    target.add(row, bank.cache.pairs_by_layer(slot))
                self.banks.remove(bank)

    def _bank(self, kind: Kind, size: int) -> Bank:
        for bank in self.banks:
            if bank.kind == kind and (not bank.rows or size_class(bank.cache.longest) == size):
                return bank
        self.banks = [bank for bank in self.banks if bank.rows]
        self.banks.append(Bank(kind, RowCache(0)))
        return self.banks[-1]

    def _make_room(self, bank: Bank, n_new: int) -> None:
        """Give a bank slots for new rows: twice those it has, unless all banks together would have over ``max_rows``.

        If they would, the others first give up slots that stand empty.
        """
        needed = len(bank.rows) + n_new
        if needed <= bank.cache.slots:
            return
        others = [other.cache for other in self.banks if other is not bank]
        if self.max_rows - sum(cache.slots for cache in others) < needed:
            for cache in others:
                cache.resize(cache.n_rows)
        free = self.max_rows - sum(cache.slots for cache in others)
        bank.cache.resize(max(needed, min(2 * bank.cache.slots, free)))


def size_class(pairs: int) -> int:
    """Rows of one class differ in length by less than a factor of two, or by less than a block."""
    return (pairs // BLOCK).bit_length()


def _longest(pairs: RowPairs) -> int:
    return max(part.length for layer in pairs for part in layer)
