"""Merging of evicted pairs into kept ones: each rule against loops, and against kvpress where that draws nothing."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import merged_by_loops
import numpy as np
import press_table
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_recorder import record
from numpy_weights import LAYERS, fingerprint, numbered_model, numbered_tokens
from torch import Tensor

from fairkv_eval.eviction import merging
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.merging import merge, merge_cam
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.segments import Segment

KV_HEADS, DIM = 2, 8

# MergingPress and CAMPress on the tensors of this file, by `golden/make_kvpress_merging.py`.
REFERENCE = dict(np.load(Path(__file__).parents[1] / "golden" / "kvpress_merging.npz"))
ABOUT = json.loads(str(REFERENCE["about"]))


def layer_of(n: int, seed: int = 0, dtype: torch.dtype = torch.float32, ties: bool = False) -> Layer:
    """A random layer; ``ties``: of keys that are axes, so that similarities are 0 or 1 and exact."""
    rng = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(heads, n, DIM, generator=rng).to(dtype) for heads in (2 * KV_HEADS, KV_HEADS, KV_HEADS))
    return Layer(q, torch.eye(DIM)[k.argmax(-1) % 3] if ties else k, v, DIM**-0.5)


def spans_of(n: int, edges: list[int]) -> list[Span]:
    inside = sorted({edge for edge in edges if 0 < edge < n})
    return [Span(a, b) for a, b in itertools.pairwise([0, *inside, n])]


def kept_at(layer: Layer, result: Layer, index: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The kept keys and values of each head."""
    rows = [row for part in index for row in part]
    return [(k[row], v[row]) for k, v, row in zip(result.k, result.v, rows, strict=True)]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Layer, list[Tensor], list[Span], Tensor]:
    """A layer, what each head keeps, spans and a whitelist that every head keeps."""
    n = draw(st.integers(1, 24), label="n")
    layer = layer_of(n, draw(st.integers(0, 99), label="rng"), ties=draw(st.booleans(), label="ties"))
    spans = spans_of(n, draw(st.lists(st.integers(1, n), max_size=4), label="edges"))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 99), label="kept"))
    whitelisted = torch.rand(n, generator=rng) < draw(st.sampled_from([0.0, 0.2]), label="whitelist")
    counts = [draw(st.integers(max(1, int(whitelisted.sum())), n), label="count") for _ in range(KV_HEADS)]
    order = [(torch.rand(n, generator=rng) + whitelisted).argsort(descending=True) for _ in range(KV_HEADS)]
    if draw(st.booleans(), label="even"):
        return layer, [torch.stack([row[: counts[0]].sort().values for row in order])], spans, whitelisted
    return layer, [row[None, :m].sort(-1).values for row, m in zip(order, counts, strict=True)], spans, whitelisted


def by_loops(rule: str, layer: Layer, index: list[Tensor], spans: list[Span], whitelisted: Tensor):
    edges, listed = [(s.start, s.stop) for s in spans], set(whitelisted.nonzero()[:, 0].tolist())
    for k, v, row in zip(layer.k, layer.v, [row for part in index for row in part.tolist()], strict=True):
        if rule == "similar":
            yield merged_by_loops.similar(list(k), list(v), row, edges, listed)
        else:
            yield merged_by_loops.d2o(list(k), list(v), row, edges, listed, [None] * len(edges))


@pytest.mark.parametrize("rule", ["similar", "d2o"])
@settings(max_examples=60, deadline=None)
@given(case=cases())
def test_rules_equal_loops(rule: str, case) -> None:
    layer, index, spans, whitelisted = case
    merged = merge(rule, layer, index, spans, whitelisted)
    expected = list(by_loops(rule, layer, index, spans, whitelisted))
    assert merged.n_pairs == sum(head.count for head in expected)
    for (keys, values), head in zip(kept_at(layer, merged.layer, index), expected, strict=True):
        torch.testing.assert_close(keys.double(), torch.stack(head.keys).double(), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(values.double(), torch.stack(head.values).double(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rule", ["similar", "d2o"])
@pytest.mark.parametrize("count", [1, 4])
def test_blocks_change_nothing(monkeypatch, rule: str, count: int) -> None:
    layer, spans = layer_of(300), spans_of(300, [40 * i for i in range(count)])
    index = [torch.stack([torch.randperm(300)[:150].sort().values for _ in range(KV_HEADS)])]
    whole = merge(rule, layer, index, spans)
    monkeypatch.setattr(merging, "block_rows", lambda heads, keys: 7)
    blocks = merge(rule, layer, index, spans)
    assert blocks.n_pairs == whole.n_pairs
    torch.testing.assert_close(blocks.layer.v, whole.layer.v)
    torch.testing.assert_close(blocks.layer.k, whole.layer.k)


def test_similarities_are_never_held_at_once(monkeypatch) -> None:
    """The largest block of cosines holds at most BLOCK_ELEMENTS, whatever the context's length."""
    sizes: list[int] = []
    matmul = Tensor.__matmul__

    def spy(a: Tensor, b: Tensor) -> Tensor:
        result = matmul(a, b)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(Tensor, "__matmul__", spy)
    n = 6000
    merge("similar", layer_of(n), [torch.arange(0, n, 2).expand(KV_HEADS, -1)], [Span(0, n)])
    assert len(sizes) > 10 and max(sizes) <= 1 << 20


@pytest.mark.parametrize("rule", ["similar", "d2o"])
@settings(max_examples=40, deadline=None)
@given(case=cases(), which=st.integers(0, 4))
def test_nothing_crosses_a_span(rule: str, case, which: int) -> None:
    """Other keys and values of one span's evicted pairs change kept pairs of that span alone."""
    layer, index, spans, whitelisted = case
    span = spans[which % len(spans)]
    rows = [row for part in index for row in part]
    changed = replace(layer, k=layer.k.clone(), v=layer.v.clone())
    for head, row in enumerate(rows):
        evicted = [p for p in range(span.start, span.stop) if p not in row.tolist()]
        changed.k[head, evicted] = torch.randn(len(evicted), DIM)
        changed.v[head, evicted] = torch.randn(len(evicted), DIM) * 5
    before, after = (merge(rule, each, index, spans, whitelisted).layer for each in (layer, changed))
    for (k, v), (other_k, other_v), row in zip(
        kept_at(layer, before, index), kept_at(layer, after, index), rows, strict=True
    ):
        outside = (row < span.start) | (row >= span.stop)
        assert torch.equal(k[outside], other_k[outside]) and torch.equal(v[outside], other_v[outside])


@pytest.mark.parametrize("rule", ["similar", "d2o"])
@pytest.mark.parametrize("fair", [0.0, 0.5, 1.0])
def test_a_plan_merges_within_segments_if_it_is_fair(rule: str, fair: float) -> None:
    """Plain, values of one segment do reach kept pairs of the other."""
    n, segments = 40, (Segment("a", 0, 15), Segment("b", 15, 40))
    policy = press_table.policy("knorm", 0.6, fair, merge=rule)
    layer = layer_of(n, 3)
    index = (plan := Plan(policy, segments, n, [0])).choose(layer)
    other = replace(layer, v=layer.v.clone())
    for values, row in zip(other.v, index[0], strict=True):
        values[[p for p in range(15) if p not in row]] += 3.0
    (before, after), of_b = (plan.merge(each, index).layer for each in (layer, other)), index[0] >= 15
    reached = [
        bool((a[row][b] != c[row][b]).any()) for a, c, row, b in zip(before.v, after.v, index[0], of_b, strict=True)
    ]
    assert any(reached) == (fair == 0)


@pytest.mark.parametrize("rule", ["similar", "d2o"])
def test_whitelisted_pairs_keep_their_bits(rule: str) -> None:
    layer, whitelisted = layer_of(30, dtype=torch.bfloat16), torch.arange(30) < 6
    merged = merge(rule, layer, [torch.arange(12).expand(KV_HEADS, -1)], [Span(0, 30)], whitelisted)
    assert merged.n_pairs and not torch.equal(merged.layer.v[:, 6:12], layer.v[:, 6:12])
    assert torch.equal(merged.layer.v[:, :6], layer.v[:, :6]) and torch.equal(merged.layer.k[:, :6], layer.k[:, :6])
    all_listed = merge(rule, layer, [torch.arange(6).expand(KV_HEADS, -1)], [Span(0, 30)], whitelisted)
    assert all_listed.n_pairs == 0 and torch.equal(all_listed.layer.v[:, :6], layer.v[:, :6])


@pytest.mark.parametrize("rule", ["similar", "d2o"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_takes_nothing_in_keeps_its_bits(rule: str, dtype: torch.dtype) -> None:
    layer = layer_of(9, dtype=dtype)
    before = replace(layer, k=layer.k.clone(), v=layer.v.clone())
    index = torch.arange(8).expand(KV_HEADS, -1)
    merged = merge(rule, layer, [index], [Span(0, 9)])
    assert merged.n_pairs == KV_HEADS
    for states, others in ((merged.layer.v, layer.v), (merged.layer.k, layer.k)):
        changed = (states != others).any(-1).sum(-1).tolist()
        assert changed == ([0, 0] if rule == "similar" and others is layer.k else [1, 1])
    assert layer.k.equal(before.k) and layer.v.equal(before.v)  # other policies evict from the same layer


def test_opposite_keys_are_not_merged() -> None:
    """A similarity below zero says nothing about what to do with a value: kvpress drops it."""
    k = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]])
    layer = Layer(torch.zeros(1, 3, 2), k, torch.ones(1, 3, 2) * torch.tensor([1.0, 2.0, 3.0])[:, None], 1.0)
    merged = merge("similar", layer, [torch.tensor([[0]])], [Span(0, 3)])
    assert merged.n_pairs == 0 and merged.layer.v[0, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("before", [None, 0.9, -0.9])
def test_the_threshold_moves(before: float | None) -> None:
    layer, kept = layer_of(20, 5), [1, 4, 9, 15]
    given = None if before is None else torch.full((KV_HEADS, 1), before, dtype=torch.float64)
    merged = merge("d2o", layer, [torch.tensor([kept] * KV_HEADS)], [Span(0, 20)], None, given)
    assert merged.thresholds is not None
    count = 0
    for head in range(KV_HEADS):
        thresholds = [before]
        head_merged = merged_by_loops.d2o(list(layer.k[head]), list(layer.v[head]), kept, [(0, 20)], (), thresholds)
        assert float(merged.thresholds[head, 0]) == pytest.approx(thresholds[0], abs=1e-6)
        torch.testing.assert_close(
            merged.layer.k[head, kept].double(), torch.stack(head_merged.keys), atol=1e-5, rtol=0
        )
        count += head_merged.count
    assert merged.n_pairs == count


def test_equal_similarities_are_at_their_mean() -> None:
    """Pairs that are all as similar are all merged, however their mean is rounded."""
    k = torch.randn(1, 1, DIM, generator=torch.Generator().manual_seed(1)).expand(1, 50, DIM)
    layer = Layer(torch.zeros(2, 50, DIM), k, torch.randn(1, 50, DIM), 1.0)
    assert merge("d2o", layer, [torch.tensor([[7]])], [Span(0, 50)]).n_pairs == 49


@settings(max_examples=60, deadline=None)
@given(case=cases(), most=st.integers(1, 9), zeros=st.booleans())
def test_cam_equals_loops(case, most: int, zeros: bool) -> None:
    layer, index, _, whitelisted = case
    index = index[0].expand(KV_HEADS, -1) if len(index) == 2 else index[0]
    n, rng = layer.k.shape[1], torch.Generator().manual_seed(most)
    attention = torch.rand(KV_HEADS, n, generator=rng) ** 3
    if zeros:
        attention = attention.masked_fill(torch.rand(KV_HEADS, n, generator=rng) < 0.5, 0.0)
    evicted = [[p for p in range(n) if p not in row] for row in index.tolist()]
    candidates = torch.tensor([row[:most] for row in evicted], dtype=torch.int64).view(KV_HEADS, -1)
    noise = torch.rand(candidates.shape, generator=rng)
    merged = merge_cam(layer, index, whitelisted.expand(KV_HEADS, -1), candidates, attention, noise)
    count, listed = 0, set(whitelisted.nonzero()[:, 0].tolist())
    for head, row in enumerate(index.tolist()):
        draws = dict(zip(candidates[head].tolist(), noise[head].tolist(), strict=True))
        states = list(layer.k[head]), list(layer.v[head])
        expected = merged_by_loops.cam(*states, row, listed, attention[head].tolist(), draws)
        torch.testing.assert_close(
            merged.layer.v[head, row].double(), torch.stack(expected.values), atol=1e-5, rtol=1e-5
        )
        count += expected.count
    assert merged.n_pairs == count
    assert merged.layer.k is layer.k


@pytest.mark.parametrize("ratio", ABOUT["ratios"])
@pytest.mark.parametrize("press", ABOUT["presses"])
@pytest.mark.parametrize("kind", ABOUT["models"])
def test_similar_is_kvpress_merging_press(kind: str, press: str, ratio: float) -> None:
    about, n = ABOUT["models"][kind], ABOUT["n"]
    model = numbered_model(kind, about["seed"])
    assert fingerprint(model) == about["fingerprint"]
    given = {"press": press, "ratio": ratio, "merge": "similar", **ABOUT["presses"][press]}
    plan = Plan(Policy.of(given), (), n, range(LAYERS))
    kept, values = (torch.from_numpy(REFERENCE[f"{kind}/{press}/{ratio}/{name}"]) for name in ("kept", "values"))
    for layer in record(model, numbered_tokens(n, about["seed"])):
        (index,) = plan.choose(layer)
        assert index.tolist() == kept[layer.index].tolist()
        merged = plan.merge(layer, [index]).layer
        assert torch.equal(merged.k, layer.k)
        ours = torch.stack([v[row] for v, row in zip(merged.v, index, strict=True)])
        torch.testing.assert_close(ours, values[layer.index], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("case", ABOUT["cam"])
def test_cam_is_kvpress_cam_press(case: str) -> None:
    """With the same draws: a pair is merged if its probability is above one half."""
    keys, values, attention, kept, candidates, theirs = (
        torch.from_numpy(REFERENCE[f"{case}/{name}"])
        for name in ("keys", "values", "attention", "kept", "candidates", "merged")
    )
    layer = Layer(keys, keys, values, 1.0)
    index, candidates = kept.repeat(KV_HEADS, 1), candidates.repeat(KV_HEADS, 1)
    nothing = torch.zeros(attention.shape, dtype=torch.bool)
    merged = merge_cam(layer, index, nothing, candidates, attention, torch.full(candidates.shape, 0.5))
    torch.testing.assert_close(merged.layer.v[:, kept], theirs, atol=1e-6, rtol=1e-5)
    assert 0 < merged.n_pairs < candidates.numel()
