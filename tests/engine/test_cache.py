"""The rows of a batch against lists of lists, under any sequence of additions, removals and steps."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.sdpa import SDPA, masked
from fairkv_eval.engine import buffer
from fairkv_eval.engine.cache import ContextCache, RowCache
from fairkv_eval.storage.pairs import Pairs

HEADS, KEY_DIM, VALUE_DIM = 2, 3, 2
WINDOWS = [None, 3]  # the second of two layers slides
SHAPES = ((HEADS, KEY_DIM), (HEADS, VALUE_DIM))


def one_layer(m: int, filler: float = 0.0, dtype: torch.dtype = torch.float32) -> list[list[Pairs]]:
    """A row of one layer, with m pairs in all heads."""
    return [[Pairs(*(torch.full((HEADS, m, dim), filler, dtype=dtype) for dim in (KEY_DIM, VALUE_DIM)))]]


class Rows:
    """The reference: entries[layer][row][head] is a list of (key, value), the newest last."""

    def __init__(self) -> None:
        self.entries: list[list[list[list[tuple[Tensor, Tensor]]]]] = [[] for _ in WINDOWS]

    def visible(self, layer: int, row: int, head: int) -> list[tuple[Tensor, Tensor]]:
        window = WINDOWS[layer]
        return self.entries[layer][row][head][-window if window else 0 :]

    def attend(self, layer: int, row: int, q: Tensor) -> Tensor:
        out = []
        for head in range(HEADS):
            seen = [(key.tolist(), value.tolist()) for key, value in self.visible(layer, row, head)]
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

    def add(self, *lengths: int | tuple[int, ...]) -> None:
        """A new row with its own length in each layer, or in each head of a layer."""
        layers = []
        for layer, m in enumerate(lengths):
            by_head = (m,) * HEADS if isinstance(m, int) else m
            heads = [Pairs(self.draw(1, n, KEY_DIM), self.draw(1, n, VALUE_DIM)) for n in by_head]
            self.rows.entries[layer].append([list(zip(p.keys[0], p.values[0], strict=True)) for p in heads])
            layers.append(heads if len(set(by_head)) > 1 else [Pairs(*map(torch.cat, zip(*heads, strict=True)))])
        self.cache.add(layers)

    def remove(self, row: int) -> None:
        self.cache.remove(row)
        for rows in self.rows.entries:
            rows[row] = rows[-1]
            rows.pop()

    def step(self) -> None:
        """One decode step, compared in every layer."""
        self.cache.begin_step()
        for layer, window in enumerate(WINDOWS):
            k, v = (self.draw(self.cache.n_rows, *shape) for shape in SHAPES)
            for row, heads in enumerate(self.rows.entries[layer]):
                for head, entries in enumerate(heads):
                    entries.append((k[row, head], v[row, head]))
            self.compare(layer, self.cache.append(layer, k, v, window))

    def compare(self, layer: int, shown: list[tuple]) -> None:
        rows = self.rows.entries[layer]
        assert [head for heads, *_ in shown for head in range(HEADS)[heads]] == list(range(HEADS))
        q = self.draw(len(rows), HEADS, 1, KEY_DIM)
        attended = []
        for heads, keys, values, step in shown:
            covered, mask = range(HEADS)[heads], step.mask
            longest = max(len(row[head]) for row in rows for head in covered)
            assert step.longest == longest and step.lengths.tolist() == [len(row[covered[0]]) for row in rows]
            keys, values = keys[:, :, :longest], values[:, :, :longest]
            assert keys.shape == (len(rows), len(covered), longest, KEY_DIM)
            assert values.shape == (len(rows), len(covered), longest, VALUE_DIM)
            seen = torch.ones(len(rows), longest, dtype=torch.bool) if mask is None else mask[:, 0, 0]
            for row, own in enumerate(rows):
                for at, head in enumerate(covered):
                    pairs = own[head]
                    first = len(pairs) - len(self.rows.visible(layer, row, head))
                    assert seen[row].tolist() == [first <= i < len(pairs) for i in range(longest)]
                    for i, (key, value) in enumerate(pairs):
                        assert torch.equal(keys[row, at, i], key) and torch.equal(values[row, at, i], value)
            attended.append(masked(q[:, heads], keys, values, mask, Options(1.0))[:, :, 0])
        expected = torch.stack([self.rows.attend(layer, row, q[row, :, 0]) for row in range(len(rows))])
        torch.testing.assert_close(torch.cat(attended, 1), expected, atol=1e-5, rtol=1e-4)

    def check_sizes(self) -> None:
        assert self.cache.n_rows == len(self.rows.entries[0])
        if not self.cache.layers:
            assert self.cache.nbytes_held == self.cache.nbytes_allocated == 0
            return
        for buffers, rows in zip(self.cache.layers, self.rows.entries, strict=True):
            lengths = [[m] * buffer.heads for buffer in buffers for m in [buffer.lengths]]
            by_head = [own for group in lengths for own in group]
            assert by_head == [[len(row[head]) for row in rows] for head in range(HEADS)]
        pairs = sum(len(head) for rows in self.rows.entries for row in rows for head in row)
        held = pairs * (KEY_DIM + VALUE_DIM) * 4
        assert self.cache.nbytes_held == held <= self.cache.nbytes_allocated


LENGTHS = st.one_of(st.integers(0, 12), st.tuples(*[st.integers(0, 12)] * HEADS))  # of all heads, or of each
ACTIONS = st.one_of(
    st.tuples(st.just("add"), LENGTHS, LENGTHS),
    st.tuples(st.just("remove"), st.integers(0, 99)),
    st.tuples(st.just("step")),
)


@given(st.lists(ACTIONS, max_size=25), st.integers(0, 99))
@settings(max_examples=60)
def test_any_sequence_equals_lists(actions: list[tuple], rng: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer, "BLOCK", 4)
        batch = Batch(rng)
        for name, *values in actions:
            if name == "add":
                batch.add(*values)
            elif batch.cache.n_rows and name == "remove":
                batch.remove(values[0] % batch.cache.n_rows)
            elif batch.cache.n_rows:
                batch.step()
            batch.check_sizes()


def test_growth_across_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer, "BLOCK", 8)
    batch = Batch()
    batch.add(6, 3)  # needs 7 and 4 places, and gets a block more than that
    assert [layer[0].keys.shape[2] for layer in batch.cache.layers] == [16, 16]
    batch.add(5, 14)
    for _ in range(12):
        batch.step()
        batch.check_sizes()
    assert [layer[0].keys.shape[2] for layer in batch.cache.layers] == [32, 32]


def test_room_for_the_whole_batch_from_the_start() -> None:
    rows = RowCache(slots=5)
    rows.add(one_layer(3))
    buffer = rows.layers[0][0].keys
    for _ in range(4):
        rows.add(one_layer(60))
    assert rows.layers[0][0].keys is buffer and len(buffer) == 5


def test_layers_with_the_same_lengths_share_the_small_tensors_of_a_step() -> None:
    batch = Batch()
    batch.add(4, 4)
    batch.add(2, 2)
    batch.cache.begin_step()
    k, v = (batch.draw(2, *shape) for shape in SHAPES)
    first, second = (batch.cache.append(layer, k, v, None)[0].step.mask for layer in (0, 1))
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
        rows.add(one_layer(3))
    rows.begin_step()
    new = torch.ones(2, HEADS, KEY_DIM), torch.ones(2, HEADS, VALUE_DIM)
    assert rows.append(0, *new, None)[0].step.mask is None
    rows.begin_step()
    mask = rows.append(0, *new, 2)[0].step.mask
    assert mask is not None and mask[:, 0, 0].tolist() == [[False] * 3 + [True] * 2] * 2


@pytest.mark.parametrize("leaves", [0, 1])
@pytest.mark.parametrize("lengths", [(2, 6), (6, 2)])
def test_what_a_freed_row_held_reaches_nobody(leaves: int, lengths: tuple[int, int]) -> None:
    """Not even a NaN, which spreads through a weight of zero."""
    rows = RowCache()
    for row in range(2):
        filler, m = (math.nan, 9) if row == leaves else (1.0, 3)
        rows.add(one_layer(m, filler))
    rows.remove(leaves)
    rows.remove(0)
    for m in lengths:
        rows.add(one_layer(m, 1.0))
    rows.begin_step()
    new = torch.ones(2, HEADS, KEY_DIM), torch.ones(2, HEADS, VALUE_DIM)
    (shown,) = rows.append(0, *new, None)
    found = SDPA.rows(torch.ones(2, HEADS, 1, KEY_DIM), shown, Options(1.0))
    torch.testing.assert_close(found, torch.ones(2, HEADS, 1, VALUE_DIM))


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_bytes_are_those_of_the_entries_in_use(dtype: torch.dtype, size: int) -> None:
    rows = RowCache()
    for m in (3, 5):
        rows.add(one_layer(m, dtype=dtype))
    assert rows.nbytes_held == (3 + 5) * HEADS * (KEY_DIM + VALUE_DIM) * size
    assert rows.nbytes_allocated == 2 * (2 * buffer.BLOCK) * HEADS * (KEY_DIM + VALUE_DIM) * size
    assert rows.layers[0][0].keys.dtype == dtype
    rows.remove(0)
    assert rows.nbytes_held == 5 * HEADS * (KEY_DIM + VALUE_DIM) * size


def test_context_cache_counts_what_it_holds() -> None:
    context = ContextCache(n_tokens=10)
    assert context.nbytes == context.pairs == 0
    for kept in (4, 7):
        values = torch.zeros(HEADS, kept, VALUE_DIM, dtype=torch.bfloat16)
        context.layers.append([Pairs(torch.zeros(HEADS, kept, KEY_DIM), values)])
    assert context.nbytes == (4 + 7) * HEADS * (KEY_DIM * 4 + VALUE_DIM * 2)
    assert context.pairs == (4 + 7) * HEADS


def test_uneven_heads_take_only_the_room_they_need() -> None:
    """A layer is split by heads when the first uneven row comes, and keeps what it holds."""
    rows = RowCache(slots=2)
    rows.add(one_layer(3, 1.0))
    even = [Pairs(torch.ones(1, m, KEY_DIM), torch.ones(1, m, VALUE_DIM)) for m in (1000, 5)]
    rows.add([even])
    long, short = rows.layers[0]
    assert (long.lengths, short.lengths) == ([3, 1000], [3, 5])
    assert short.keys.shape[2] <= 2 * buffer.BLOCK < 1000 < long.keys.shape[2]
    assert rows.nbytes_held == (2 * 3 + 1005) * (KEY_DIM + VALUE_DIM) * 4
    rows.add(one_layer(4, 1.0))
    assert (long.lengths, short.lengths) == ([3, 1000, 4], [3, 5, 4])


@pytest.mark.parametrize("uneven", [False, True])
def test_a_row_can_be_replaced_by_fewer_pairs(uneven: bool) -> None:
    batch = Batch()
    batch.add(9, 9)
    batch.add(*[(7, 2) if uneven else 7] * 2)
    left = Pairs(*(part[:, 2:6].clone() for part in batch.cache.pairs(0, 0)))
    batch.cache.replace(0, 0, left)
    batch.rows.entries[0][0] = [head[2:6] for head in batch.rows.entries[0][0]]
    batch.check_sizes()
    batch.step()
