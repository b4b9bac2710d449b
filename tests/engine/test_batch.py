"""The running batch: rows keep their pairs whatever joins, leaves or grows beside them, and share buffers by length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_runs import attached, prompt, run
from hypothesis import given, settings
from hypothesis import strategies as st
from press_table import policy
from torch import Tensor

from fairkv_eval.engine import batch as batch_module
from fairkv_eval.engine import buffer, engine
from fairkv_eval.engine.batch import Batch, Row, size_class
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.engine.sampling import GREEDY, Sampler
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.storage.pairs import Pairs

HEADS, DIM = 2, 3


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "BLOCK", 4)
    monkeypatch.setattr(batch_module, "BLOCK", 4)


def row(index: int) -> Row:
    return Row(index, Generation(9), 0, Sampler(GREEDY, ()), {})


def pairs(heads: int, m: int, generator: torch.Generator) -> Pairs:
    return Pairs(*(torch.randn(heads, m, DIM, generator=generator) for _ in "kv"))


class Driven:
    """A batch, and for each row the keys and values ``[m, DIM]`` that every layer and head should hold."""

    def __init__(self, most: int) -> None:
        self.batch = Batch(most)
        self.expected: dict[Row, list[list[list[Tensor]]]] = {}
        self.generator = torch.Generator().manual_seed(0)

    def add(self, *shapes: Any) -> None:
        """Rows of one layer of all heads, and one that may have heads of different lengths."""
        fresh = []
        for first, second in shapes:
            layers = [[pairs(HEADS, first, self.generator)]]
            by_head = isinstance(second, tuple)
            sizes = second if by_head else (second,)
            layers.append([pairs(1 if by_head else HEADS, m, self.generator) for m in sizes])
            fresh.append((row(len(self.expected)), layers))
            self.expected[fresh[-1][0]] = [
                [list(head) for own in group for head in zip(own.keys, own.values, strict=True)] for group in layers
            ]
        self.batch.add(fresh)

    def remove(self, at: list[int]) -> None:
        rows = self.batch.rows
        gone = {rows[i % len(rows)] for i in at} if rows else set()
        self.batch.end(gone)
        self.batch.drop_ended()
        for own in gone:
            del self.expected[own]

    def step(self) -> None:
        self.batch.settle()
        for cache in self.batch.caches:
            cache.begin_step()
        for layer in range(2):
            at = 0
            for cache in self.batch.caches:
                k, v = (torch.randn(cache.n_rows, HEADS, DIM, generator=self.generator) for _ in "kv")
                cache.append(layer, k, v, None)
                for slot, r in enumerate(self.batch.rows[at : at + cache.n_rows]):
                    for head, held in enumerate(self.expected[r][layer]):
                        held[0] = torch.cat([held[0], k[slot, head, None]])
                        held[1] = torch.cat([held[1], v[slot, head, None]])
                at += cache.n_rows

    def check(self) -> None:
        batch = self.batch
        assert set(batch.rows) == set(self.expected) and len(batch) == len(self.expected)
        places = [(cache, slot) for cache in batch.caches for slot in range(cache.n_rows)]
        for r, (cache, slot) in zip(batch.rows, places, strict=True):
            for layer, group in enumerate(cache.pairs_by_layer(slot)):
                found = [head for held in group for head in zip(held.keys, held.values, strict=True)]
                for (key, value), (k, v) in zip(found, self.expected[r][layer], strict=True):
                    assert torch.equal(key, k) and torch.equal(value, v)
        assert sum(cache.slots for cache in batch.caches) <= batch.max_rows


LENGTHS = st.one_of(st.integers(0, 40), st.tuples(st.integers(0, 40), st.integers(0, 40)))
ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(st.integers(0, 40), LENGTHS), min_size=1, max_size=4)),
    st.tuples(st.just("remove"), st.lists(st.integers(0, 99), max_size=3)),
    st.tuples(st.just("step"), st.integers(1, 9)),
)


@given(st.lists(ACTIONS, max_size=15))
@settings(max_examples=60)
def test_rows_keep_their_pairs_under_any_sequence(actions: list[tuple]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer, "BLOCK", 4)
        patch.setattr(batch_module, "BLOCK", 4)
        driven = Driven(most=8)
        for name, value in actions:
            if name == "add" and len(driven.batch) + len(value) <= 8:
                driven.add(*value)
            elif name == "remove":
                driven.remove(value)
            elif name == "step":
                for _ in range(value):
                    driven.step()
            driven.check()


def test_a_size_class_is_a_factor_of_two_or_a_block() -> None:
    classes: dict[int, list[int]] = {}
    for m in range(200):
        classes.setdefault(size_class(m), []).append(m)
    assert [own[0] for own in classes.values()] == [0, 4, 8, 16, 32, 64, 128]


def test_a_short_row_does_not_pay_for_a_long_one() -> None:
    driven = Driven(most=8)
    driven.add((40, 40))
    driven.add(*[(3, 3)] * 7)
    lengths = [own.longest for own in driven.batch.caches]
    assert sorted(lengths) == [3, 40]
    entry = 2 * 2 * HEADS * DIM * 4  # two layers, keys and values
    # A block more than needed at most for each row, besides the block that holds its last pair.
    assert driven.batch.nbytes_allocated <= ((40 + 8) + 7 * (3 + 8)) * entry


def test_banks_that_grow_to_one_size_become_one() -> None:
    driven = Driven(most=8)
    driven.add((3, 3), (3, 3))
    driven.add((5, 5))
    assert [bank.cache.n_rows for bank in driven.batch.banks] == [2, 1]
    driven.step()
    assert len(driven.batch.banks) == 2
    driven.step()  # the short ones have four pairs now
    driven.check()
    assert [bank.cache.n_rows for bank in driven.batch.banks] == [3]


def test_an_empty_bank_is_used_again_for_its_kind() -> None:
    driven = Driven(most=4)
    driven.add((3, 3), (2, 2))
    buffers = driven.batch.banks[0].cache.layers[0][0].keys
    driven.remove([0, 1])
    driven.add((1, 1), (3, 3))
    assert driven.batch.banks[0].cache.layers[0][0].keys is buffers
    driven.check()


def test_rows_of_very_different_ratios_hold_little_more_than_their_own_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The full cache among strongly compressed ones: buffers stay near the bytes in use."""
    monkeypatch.undo()  # blocks of their real size
    held = []

    class Watched(Batch):
        def settle(self) -> None:
            super().settle()
            held.append((self.nbytes_allocated, sum(own.nbytes_held for own in self.caches), len(self)))

    monkeypatch.setattr(engine, "Batch", Watched)
    long = prompt(1, 810, 800, 0)
    own = [Policy(), *(policy("tova", 0.9) for _ in range(7))]
    jobs = [Job(Prompt((*long.tokens[:800], i, *range(9)), 800), p, Generation(4), "") for i, p in enumerate(own)]
    run(attached(), jobs, rows=8)
    entry = 3 * 2 * 2 * 16 * 4
    for allocated, used, rows in held:
        assert used <= allocated <= used + rows * 2 * buffer.BLOCK * entry
