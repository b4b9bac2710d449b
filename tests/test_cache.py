"""The rows of a batch against lists of lists, under any sequence of additions, removals and steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairkv_eval import cache
from fairkv_eval.attention import Options, masked
from fairkv_eval.cache import ContextCache, RowCache

HEADS, KEY_DIM, VALUE_DIM = 2, 3, 2
OPTIONS = [Options(), Options(window=3)]  # the second of two layers slides
SHAPES = ((HEADS, KEY_DIM), (HEADS, VALUE_DIM))


class Rows:
    """The reference: entries[layer][row] is a list of (key, value), the newest last."""

    def __init__(self) -> None:
        self.entries: list[list[list[tuple[Tensor, Tensor]]]] = [[] for _ in OPTIONS]

    def visible(self, layer: int, row: int) -> list[tuple[Tensor, Tensor]]:
        window = OPTIONS[layer].window
        return self.entries[layer][row][-window if window else 0 :]

    def attend(self, layer: int, row: int, q: Tensor) -> Tensor:
        out = []
        for head in range(HEADS):
            seen = [(key[head].tolist(), value[head].tolist()) for key, value in self.visible(layer, row)]
            weights = [math.exp(sum(a * b for a, b in zip(q[head].tolist(), key, strict=True))) for key, _ in seen]
            mean = [sum(w * value[d] for w, (_, value) in zip(weights, seen, strict=True)) for d in range(VALUE_DIM)]
            out.append([x / sum(weights) for x in mean])
        return torch.tensor(out)


class Batch:
    """A RowCache and its reference, driven together."""

    def __init__(self, rng: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(rng)
        self.cache, self.rows = RowCache(), Rows()

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def add(self, *lengths: int) -> None:
        """A new row with its own length in each layer."""
        keys = [self.draw(HEADS, m, KEY_DIM) for m in lengths]
        values = [self.draw(HEADS, m, VALUE_DIM) for m in lengths]
        self.cache.add(keys, values)
        for layer, m in enumerate(lengths):
            self.rows.entries[layer].append([(keys[layer][:, i], values[layer][:, i]) for i in range(m)])

    def remove(self, row: int) -> None:
        self.cache.remove(row)
        for rows in self.rows.entries:
            rows[row] = rows[-1]
            rows.pop()

    def step(self) -> None:
        """One decode step, compared in every layer."""
        self.cache.begin_step()
        for layer, options in enumerate(OPTIONS):
            k, v = (self.draw(self.cache.rows, *shape) for shape in SHAPES)
            for row, entries in enumerate(self.rows.entries[layer]):
                entries.append((k[row], v[row]))
            keys, values, mask = self.cache.append(layer, k, v, options)
            self.compare(layer, keys, values, mask)

    def compare(self, layer: int, keys: Tensor, values: Tensor, mask: Tensor | None) -> None:
        entries = self.rows.entries[layer]
        longest = max(map(len, entries))
        assert keys.shape == (len(entries), HEADS, longest, KEY_DIM)
        assert values.shape == (len(entries), HEADS, longest, VALUE_DIM)
        shown = torch.ones(len(entries), longest, dtype=torch.bool) if mask is None else mask[:, 0, 0]
        for row, pairs in enumerate(entries):
            first = len(pairs) - len(self.rows.visible(layer, row))
            assert shown[row].tolist() == [first <= i < len(pairs) for i in range(longest)]
            for i, (key, value) in enumerate(pairs):
                assert torch.equal(keys[row, :, i], key) and torch.equal(values[row, :, i], value)
        q = self.draw(len(entries), HEADS, 1, KEY_DIM)
        found = masked(q, keys, values, 1.0, mask, None)[:, :, 0]
        expected = torch.stack([self.rows.attend(layer, row, q[row, :, 0]) for row in range(len(entries))])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)

    def check_sizes(self) -> None:
        assert self.cache.rows == len(self.rows.entries[0])
        if not self.cache.keys:
            assert self.cache.nbytes_held == self.cache.nbytes_allocated == 0
            return
        assert self.cache.lengths == [[len(pairs) for pairs in rows] for rows in self.rows.entries]
        held = sum(
            key.numel() * 4 + value.numel() * 4 for rows in self.rows.entries for pairs in rows for key, value in pairs
        )
        assert self.cache.nbytes_held == held <= self.cache.nbytes_allocated


ACTIONS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 12), st.integers(0, 12)),
    st.tuples(st.just("remove"), st.integers(0, 99)),
    st.tuples(st.just("step")),
)


@given(st.lists(ACTIONS, max_size=25), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_any_sequence_equals_lists(actions: list[tuple], rng: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "BLOCK", 4)
        batch = Batch(rng)
        for name, *values in actions:
            if name == "add":
                batch.add(*values)
            elif batch.cache.rows and name == "remove":
                batch.remove(values[0] % batch.cache.rows)
            elif batch.cache.rows:
                batch.step()
            batch.check_sizes()


def test_growth_across_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "BLOCK", 8)
    batch = Batch()
    batch.add(6, 3)  # needs 7 and 4 places, and gets a block more than that
    assert [keys.shape[2] for keys in batch.cache.keys] == [16, 16]
    batch.add(5, 14)
    for _ in range(12):
        batch.step()
        batch.check_sizes()
    assert [keys.shape[2] for keys in batch.cache.keys] == [32, 32]


def test_room_for_the_whole_batch_from_the_start() -> None:
    rows = RowCache(slots=5)
    rows.add([torch.zeros(HEADS, 3, KEY_DIM)], [torch.zeros(HEADS, 3, VALUE_DIM)])
    buffer = rows.keys[0]
    for _ in range(4):
        rows.add([torch.zeros(HEADS, 60, KEY_DIM)], [torch.zeros(HEADS, 60, VALUE_DIM)])
    assert rows.keys[0] is buffer and len(buffer) == 5


def test_layers_with_the_same_lengths_share_the_small_tensors_of_a_step() -> None:
    batch = Batch()
    batch.add(4, 4)
    batch.add(2, 2)
    batch.cache.begin_step()
    k, v = (batch.draw(2, *shape) for shape in SHAPES)
    first, second = (batch.cache.append(layer, k, v, Options())[2] for layer in (0, 1))
    assert first is second is not None


@pytest.mark.parametrize("lengths", [(3, 4), (4, 3, 4), (0, 1), (2, 40)])
def test_rows_of_different_lengths_see_their_own(lengths: tuple[int, ...]) -> None:
    batch = Batch()
    for m in lengths:
        batch.add(m, m)
    batch.step()
    batch.step()


def test_rows_of_one_length_need_no_mask() -> None:
    rows = RowCache()
    for _ in range(2):
        rows.add([torch.zeros(HEADS, 3, KEY_DIM)], [torch.zeros(HEADS, 3, VALUE_DIM)])
    rows.begin_step()
    new = torch.ones(2, HEADS, KEY_DIM), torch.ones(2, HEADS, VALUE_DIM)
    assert rows.append(0, *new, Options())[2] is None
    rows.begin_step()
    mask = rows.append(0, *new, Options(window=2))[2]
    assert mask is not None and mask[:, 0, 0].tolist() == [[False] * 3 + [True] * 2] * 2


@pytest.mark.parametrize("leaves", [0, 1])
@pytest.mark.parametrize("lengths", [(2, 6), (6, 2)])
def test_what_a_freed_row_held_reaches_nobody(leaves: int, lengths: tuple[int, int]) -> None:
    """Not even a NaN, which spreads through a weight of zero."""
    rows = RowCache()
    for row in range(2):
        filler, m = (math.nan, 9) if row == leaves else (1.0, 3)
        rows.add([torch.full((HEADS, m, KEY_DIM), filler)], [torch.full((HEADS, m, VALUE_DIM), filler)])
    rows.remove(leaves)
    rows.remove(0)
    for m in lengths:
        rows.add([torch.ones(HEADS, m, KEY_DIM)], [torch.ones(HEADS, m, VALUE_DIM)])
    rows.begin_step()
    keys, values, mask = rows.append(0, torch.ones(2, HEADS, KEY_DIM), torch.ones(2, HEADS, VALUE_DIM), Options())
    found = masked(torch.ones(2, HEADS, 1, KEY_DIM), keys, values, 1.0, mask, None)
    torch.testing.assert_close(found, torch.ones(2, HEADS, 1, VALUE_DIM))


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_are_those_of_the_entries_in_use(dtype: torch.dtype, size: int) -> None:
    rows = RowCache()
    for m in (3, 5):
        rows.add([torch.zeros(HEADS, m, KEY_DIM, dtype=dtype)], [torch.zeros(HEADS, m, VALUE_DIM, dtype=dtype)])
    assert rows.nbytes_held == (3 + 5) * HEADS * (KEY_DIM + VALUE_DIM) * size
    assert rows.nbytes_allocated == 2 * (2 * cache.BLOCK) * HEADS * (KEY_DIM + VALUE_DIM) * size
    assert rows.keys[0].dtype == dtype
    rows.remove(0)
    assert rows.nbytes_held == 5 * HEADS * (KEY_DIM + VALUE_DIM) * size


def test_context_cache_counts_what_it_holds() -> None:
    context = ContextCache(tokens=10)
    assert context.nbytes == context.pairs == 0
    for kept in (4, 7):
        context.keys.append(torch.zeros(HEADS, kept, KEY_DIM))
        context.values.append(torch.zeros(HEADS, kept, VALUE_DIM, dtype=torch.bfloat16))
    assert context.nbytes == (4 + 7) * HEADS * (KEY_DIM * 4 + VALUE_DIM * 2)
    assert context.pairs == (4 + 7) * HEADS
