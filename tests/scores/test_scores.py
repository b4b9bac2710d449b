"""Every scoring rule against plain loops over its definition, on tiny random layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scores_by_loops import INF, RULES, make_layer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fairkv_eval import scores
from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import layer as layer_module
from fairkv_eval.scores import Layer, Span, linear_algebra

DRAWN: dict[str, dict[str, list[Any]]] = {
    "streaming_llm": {"sinks": [0, 1, 4, 99]},
    "snapkv": {"window": [1, 2, 5, 64], "kernel": [1, 3, 7]},
    "h2o": {"recent": [0.0, 0.3, 0.5, 1.0]},
    "lagkv": {"sinks": [0, 1, 4, 99], "lag": [1, 2, 3, 128]},
    "expected_attention": {"sinks": [0, 1, 4, 99], "horizon": [1, 3, 20]},
    "duo_attention": {"sparsity": [0.0, 0.3, 1.0], "sinks": [0, 1, 99], "recent": [1, 3, 99]},
    "expected_attention_stats": {"sinks": [0, 1, 4, 99], "horizon": [1, 3, 20]},
    "kvzip": {"variant": ["original", "plus"]},
    "chunkkv": {"chunk": [1, 2, 3, 5, 99]},
    "simlayerkv": {"threshold": [0.0, 0.4, 0.7, 1.0], "sinks": [0, 1, 3], "recent": [1, 3, 6], "last": [1, 2, 4]},
    "threshold": {"protect": [0, 1, 4, 99]},
    "blockwise": {"block_size": [1, 2, 3, 5, 99]},
    "criticalkv": {
        "first": [0.0, 0.3, 0.5, 1.0],
        "epsilon": [0.0, 1e-4, 0.5],
        "pooled": [False, True],
        "safeguard": [0.0, 0.2, 1.0],
    },
    "leverage": {"sketch": [1, 2, 3, 4, 48]},
    "noncausal_attention": {"block": [1, 2, 5, 99]},
    "compactor": {
        "sinks": [0, 1, 4, 99],
        "recent": [0, 1, 3, 99],
        "block": [1, 3, 99],
        "sketch": [2, 48],
        "blend": [0.0, 0.35, 1.0],
        "by_ratio": [True, False],
    },
    "cur": {
        "sinks": [0, 1, 4, 99],
        "window": [1, 2, 5, 99],
        "combine": ["product", "mean", "keys", "values"],
        "sketch": [0, 2, 20],
    },
    "capkv": {"sinks": [0, 1, 4, 99], "horizon": [1, 3, 20], "sharpness": [0.0, 1.0, 5.0]},
}


WRAPPERS = ("chunkkv", "criticalkv", "threshold", "blockwise")


def rule(name: str, layer: Layer, **parameters) -> Callable[[Span], Tensor]:
    """The rule as a function of the span. A wrapper wraps knorm here, or the ``base`` it is given."""
    if name in WRAPPERS:
        parameters = {"base": lambda span, on=layer: scores.knorm(on, span), **parameters}
    return partial(getattr(scores, name), layer, **{**RULES[name][1], **parameters})


def check(name: str, layer: Layer, span: Span, **parameters) -> None:
    score = rule(name, layer, **parameters)
    found = score(span)
    assert found.dtype == torch.float32 and found.shape == (layer.kv_heads, len(span))
    expected = torch.tensor(RULES[name][0](layer, span, **score.keywords))
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RULES)
@given(data=st.data())
@settings(max_examples=25)
def test_rule_is_its_definition(name: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 14), "n")
    start = data.draw(st.integers(0, n - 1), "start")
    stop = data.draw(st.integers(start + 1, n), "stop")
    count = data.draw(st.integers(1, 4), "count")
    layer = make_layer(
        n,
        kv_heads=data.draw(st.sampled_from([1, 2, 3]), "kv_heads"),
        group=data.draw(st.sampled_from([1, 2, 3]), "group"),
        rng=data.draw(st.integers(0, 99), "rng"),
        softcap=data.draw(st.sampled_from([None, 2.0]), "softcap"),
    )
    parameters = {key: data.draw(st.sampled_from(values), key) for key, values in DRAWN.get(name, {}).items()}
    budget = data.draw(st.integers(0, stop - start), "budget")
    by_head = data.draw(
        st.sampled_from([(), tuple(max(0, budget - head) for head in range(layer.kv_heads))]), "by head"
    )
    check(name, layer, Span(start, stop, 0, count, budget, by_head), **parameters)


@pytest.mark.parametrize("name", RULES)
def test_plain_and_fair_spans(name: str) -> None:
    plain, *fair = [(0, 12), (5, 12, 1, 2), (3, 9, 1, 3), (4, 5, 1, 3), (0, 1, 0, 2)]
    for span, softcap in itertools.product([plain, *fair], (None, 1.5)):
        check(name, make_layer(12, softcap=softcap), Span(*span))


def test_snapkv_window_is_split_over_the_spans_and_never_vanishes() -> None:
    layer = make_layer(30)

    def protected(span: Span) -> int:
        return int(scores.snapkv(layer, span, window=8, kernel=3)[0].isinf().sum())

    assert [protected(Span(0, 10, 0, count)) for count in (1, 2, 3, 100)] == [8, 4, 2, 1]
    assert protected(Span(0, 3)) == 3  # a window larger than the span


@pytest.mark.parametrize("elements", [1, 6 * 40 * 17, 1 << 22])
@pytest.mark.parametrize("span", [Span(0, 40), Span(11, 40, 1, 2), Span(0, 19, 0, 2)])
def test_h2o_in_blocks(elements: int, span: Span, monkeypatch: pytest.MonkeyPatch) -> None:
    """16 queries are the smallest block, so 40 make several; the last is not full."""
    monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", elements)
    layer = make_layer(40, softcap=3.0)
    blocks = len(list(layer.attention_blocks(span.start, span.stop)))
    assert blocks == (1 if elements == 1 << 22 else -(-len(span) // max(16, elements // (6 * span.stop))))
    check("h2o", layer, span)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


def test_h2o_never_holds_all_of_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    n, heads, bound = 2048, 2, 1 << 17
    monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", bound)
    layer = make_layer(n, kv_heads=1, group=heads, dim=2)
    assert all(block.numel() <= bound for block in layer.attention_blocks(0, n))
    with LargestTensor() as largest:
        scores.h2o(layer, Span(0, n))
    assert largest.elements <= bound < heads * n * n // 50


@pytest.mark.parametrize("name", ["snapkv", "h2o", "tova", "keydiff", "lagkv", "chunkkv", "noncausal_attention", "cur"])
def test_no_rule_looks_behind_its_span(name: str) -> None:
    layer, span = make_layer(20), Span(4, 13, 0, 2)
    cut = Layer(layer.q[:, :13], layer.k[:, :13], layer.v[:, :13], layer.scaling)
    torch.testing.assert_close(rule(name, layer)(span), rule(name, cut)(span))


@pytest.mark.parametrize("name", RULES)
def test_half_precision_is_scored_in_float32(name: str) -> None:
    layer = make_layer(9)
    half = replace(layer, q=layer.q.bfloat16(), k=layer.k.bfloat16(), v=layer.v.bfloat16())
    exact = replace(half, q=half.q.float(), k=half.k.float(), v=half.v.float())
    found = rule(name, half)(Span(2, 9))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rule(name, exact)(Span(2, 9)))


@pytest.mark.parametrize("name", RULES)
def test_keys_and_values_that_are_all_alike_have_scores(name: str) -> None:
    layer = make_layer(12)
    for value, span in itertools.product((0.0, 1.0), (Span(0, 12), Span(5, 12, 1, 2), Span(4, 5, 1, 3))):
        alike = replace(layer, k=torch.full_like(layer.k, value), v=torch.full_like(layer.v, value))
        assert not rule(name, alike)(span).isnan().any()


@pytest.mark.parametrize("name", RULES)
def test_no_rule_changes_what_it_is_given(name: str) -> None:
    layer, same = make_layer(12), make_layer(12)
    base = torch.randn(2, 12)
    wrapped = {"base": lambda span, on=layer: base[:, : len(span)]} if name in WRAPPERS else {}
    before = base.clone()
    rule(name, layer, **wrapped)(Span(0, 12, budget=6))
    assert torch.equal(base, before)
    assert all(torch.equal(getattr(layer, key), getattr(same, key)) for key in ("q", "k", "v", "replayed"))


def protected(found: Tensor) -> list[int]:
    """Positions, counted from the span's start, that every head protects; no head protects others."""
    assert (found.isinf() == found[0].isinf()).all()
    return found[0].isinf().nonzero().flatten().tolist()


class TestBlockwise:
    """A cache that holds what was kept so far and the next block, with one KV head, so that it is a plain selection."""

    @pytest.mark.parametrize(
        "base, parameters", [("tova", {}), ("h2o", {}), ("keydiff", {}), ("snapkv", {"window": 2})]
    )
    @pytest.mark.parametrize("span", [Span(0, 20, budget=5), Span(6, 20, 1, 2, 4)])
    def test_is_the_base_on_what_is_there(self, base: str, parameters: dict, span: Span) -> None:
        layer = make_layer(20, kv_heads=1)
        arguments = {**RULES[base][1], **parameters}

        def on_others(part: Span, on: Layer) -> Tensor:
            return getattr(scores, base)(on, part, **arguments)

        ranks = scores.blockwise(layer, span, on_others, block_size=4)
        kept = list(range(span.start, span.start + span.budget))
        for start in range(span.start + span.budget, span.stop, 4):
            there = kept + list(range(start, min(start + 4, span.stop)))
            at = [*range(span.start), *there]
            alone = Layer(layer.q[:, at], layer.k[:, at], layer.v[:, at], layer.scaling)
            part = Span(span.start, len(at), span.index, span.count, span.budget)
            worth = getattr(scores, base)(alone, part, **arguments)[0].tolist()
            best = sorted(range(len(there)), key=lambda i, worth=worth: (worth[i], i), reverse=True)[: span.budget]
            kept = sorted(there[i] for i in best)
        assert (ranks[0].topk(span.budget).indices.sort().values + span.start).tolist() == kept
        assert sorted(ranks[0].tolist()) == list(range(len(span)))


class TestH2oRecent:
    @pytest.mark.parametrize(
        ("recent", "budget", "newest"), [(0.5, 10, 5), (0.5, 11, 5), (0.29, 100, 29), (1.0, 7, 7), (0.0, 100, 0)]
    )
    def test_protects_its_share_of_the_budget(self, recent: float, budget: int, newest: int) -> None:
        found = scores.h2o(make_layer(100), Span(0, 100, budget=budget), recent=recent)
        assert protected(found) == list(range(100 - newest, 100))

    def test_counts_from_the_end_of_its_span(self) -> None:
        layer, span = make_layer(20), Span(4, 13, 0, 2, budget=6)
        found = scores.h2o(layer, span, recent=0.5)
        assert protected(found) == [6, 7, 8]
        assert torch.equal(found[:, :6], scores.h2o(layer, span)[:, :6])


class TestKeydiff:
    def test_goes_by_direction_alone(self) -> None:
        layer, span = make_layer(12), Span(0, 12)
        longer = replace(layer, k=layer.k * torch.rand(2, 12, 1).add(0.1))
        torch.testing.assert_close(scores.keydiff(longer, span), scores.keydiff(layer, span))

    def test_keeps_the_odd_one_out(self) -> None:
        layer = make_layer(12)
        keys = torch.ones_like(layer.k)
        keys[:, 7] = -1
        assert scores.keydiff(replace(layer, k=keys), Span(0, 12)).argmax(-1).tolist() == [7, 7]


class TestLagkv:
    def protected(self, n: int, span: Span) -> list[int]:
        return protected(scores.lagkv(make_layer(n), span, sinks=4, lag=3))

    def test_protects_sinks_last_partition_and_remainder(self) -> None:
        assert self.protected(18, Span(0, 18)) == [0, 1, 2, 3, *range(13, 18)]
        assert self.protected(16, Span(0, 16)) == [0, 1, 2, 3, *range(13, 16)]

    def test_a_span_behind_the_sinks_has_none(self) -> None:
        assert self.protected(18, Span(6, 18, 1, 2)) == [9, 10, 11]
        assert self.protected(18, Span(2, 18, 1, 2)) == [0, 1, *range(11, 16)]  # some of the sinks are in it

    @pytest.mark.parametrize("span", [Span(0, 9), Span(5, 10, 1, 2)])
    def test_goes_by_recency_where_it_is_short(self, span: Span) -> None:
        layer = make_layer(18)
        found = scores.lagkv(layer, span, sinks=4, lag=3)
        assert torch.equal(found, scores.streaming_llm(layer, span, sinks=4))
        longer = replace(span, stop=span.stop + 1)
        assert not torch.equal(scores.lagkv(layer, longer, sinks=4, lag=3)[:, :-1], found)

    @pytest.mark.parametrize("constant", [[], [1], [0, 3]])
    def test_long_partitions_and_constant_channels(self, constant: list[int]) -> None:
        layer = make_layer(34)
        layer.k[..., constant] = 0.5
        check("lagkv", layer, Span(0, 34), sinks=4, lag=7)
        check("lagkv", layer, Span(9, 31, 1, 2), sinks=4, lag=5)

    def test_scores_are_ranks_in_each_partition(self) -> None:
        found = scores.lagkv(make_layer(34), Span(0, 34), sinks=4, lag=10)[:, 4:24]
        assert found.unflatten(1, (2, 10)).sort(-1).values.tolist() == [[list(range(10))] * 2] * 2


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("expected_attention", "expected_attention .*rotates its queries"),
        ("capkv", "capkv .*rotates its queries"),
        ("leverage", "leverage .*rotates its keys"),
        ("compactor", "leverage .*rotates its keys"),
    ],
)
def test_a_rule_that_needs_the_rotation_says_so(name: str, wanted: str) -> None:
    with pytest.raises(UsageError, match=rf"{wanted}.*not known"):
        rule(name, make_layer(9, rotation=None))(Span(0, 9))


@pytest.mark.parametrize("name", ["expected_attention", "capkv", "compactor"])
def test_sinks_have_no_say(name: str) -> None:
    layer, span = make_layer(12), Span(0, 12)
    loud = replace(layer, q=layer.q.clone(), k=layer.k.clone(), v=layer.v.clone())
    for states in (loud.q, loud.k, loud.v):
        states[:, :2] *= 100
    found = rule(name, layer)(span)
    assert found[:, :2].isinf().all() and not found[:, 2:-1].isinf().any()
    torch.testing.assert_close(rule(name, loud)(span), found)


class TestLeverage:
    def score(self, n: int = 12, sketch: int = 48, **options: int) -> Tensor:
        return scores.leverage(make_layer(n, **options), Span(0, n), sketch=sketch)

    def test_adds_up_to_the_number_of_channels(self) -> None:
        found = self.score(200)
        assert found.min() >= 0 and found.max() <= 1
        torch.testing.assert_close(found.sum(-1), torch.full((2,), 4.0), atol=0.01, rtol=0)

    def test_changes_little_with_the_unit_of_any_channel(self) -> None:
        layer = make_layer(200, rotation=Rotation("none", torch.empty(0), 4))
        other = replace(layer, k=layer.k * torch.tensor([1.0, 30.0, 0.5, 7.0]) + 5)
        before, after = (scores.leverage(x, Span(0, 200), sketch=48) for x in (layer, other))
        torch.testing.assert_close(before, after, atol=1e-3, rtol=0)

    def test_a_sketch_depends_on_context_and_layer_only(self) -> None:
        sketched = self.score(sketch=2)
        torch.manual_seed(12345)
        assert torch.equal(sketched, self.score(sketch=2)) and not torch.equal(sketched, self.score())
        assert not torch.equal(sketched, self.score(sketch=2, seed=1))
        assert not torch.equal(sketched, self.score(sketch=2, index=1))

    def test_keys_far_apart_in_size_have_a_leverage(self) -> None:
        """In float32 the Gram matrix of such keys is not positive definite."""
        layer = make_layer(40, rotation=Rotation("none", torch.empty(0), 4))
        mixed, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
        far = replace(layer, k=layer.k * torch.tensor([1e4, 1e4, 1.0, 1.0]) @ mixed)
        near, found = (scores.leverage(x, Span(0, 40), sketch=48) for x in (layer, far))
        torch.testing.assert_close(found, near, atol=0.02, rtol=0)


def test_noncausal_attention_never_holds_all_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    n, bound = 2048, 1 << 17
    monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", bound)
    layer = make_layer(n, kv_heads=1, group=2, dim=2)
    with LargestTensor() as largest:
        found = scores.noncausal_attention(layer, Span(0, n), block=n)
    assert largest.elements <= bound
    monkeypatch.undo()
    torch.testing.assert_close(found, scores.noncausal_attention(layer, Span(0, n), block=n))


class TestCompactor:
    @pytest.mark.parametrize(
        "span, ends", [(Span(0, 12), [0, 1, 2, 10, 11]), (Span(0, 6, 0, 2), [0, 1, 2]), (Span(6, 12, 1, 2), [4, 5])]
    )
    def test_protects_the_ends_of_the_context_and_not_of_a_span(self, span: Span, ends: list[int]) -> None:
        assert protected(rule("compactor", make_layer(12), sinks=3, recent=2)(span)) == ends

    def test_the_leverage_counts_more_the_less_is_kept(self) -> None:
        layer, ends = make_layer(40), {"sinks": 0, "recent": 0}
        all_kept, half, constant = (
            rule("compactor", layer, **ends, **given)(Span(0, 40, budget=budget))
            for given, budget in (({"blend": 0.6}, 40), ({"blend": 0.6}, 20), ({"blend": 0.3, "by_ratio": False}, 7))
        )
        torch.testing.assert_close(half, constant)
        torch.testing.assert_close(
            all_kept, linear_algebra.standardized(rule("noncausal_attention", layer)(Span(0, 40)))
        )


class TestCur:
    def test_parts_add_up_to_one(self) -> None:
        for combine in ("product", "mean", "keys", "values"):
            found = rule("cur", make_layer(30), sinks=0, combine=combine)(Span(0, 30))
            torch.testing.assert_close(found.sum(-1), torch.ones(2))

    def test_windows_begin_with_the_span(self) -> None:
        layer, span = make_layer(20), Span(3, 20, 1, 2)
        cut = Layer(layer.q[:, 3:], layer.k[:, 3:], layer.v[:, 3:], layer.scaling)
        torch.testing.assert_close(rule("cur", layer, sinks=0)(span), rule("cur", cut, sinks=0)(Span(0, 17)))


class TestCapkv:
    def test_a_value_that_no_other_pair_has_is_worth_most(self) -> None:
        layer = make_layer(20)
        values = torch.zeros_like(layer.v)
        values[..., 0] = 1
        values[:, 13] = torch.tensor([0.0, 0.0, 1.0, 0.0])
        found = rule("capkv", replace(layer, v=values), sinks=0, sharpness=0.0)(Span(0, 20))
        assert found.argmax(-1).tolist() == [13, 13]

    def test_large_values_have_scores(self) -> None:
        layer = make_layer(50)
        loud = replace(layer, v=layer.v * 1e5)
        found = rule("capkv", loud, sharpness=0.0)(Span(0, 50))
        # All of what a value can convey is a direction then, as in a leverage.
        torch.testing.assert_close(found[:, 2:].sum(-1), torch.full((2,), 4.0), atol=1e-3, rtol=0)


class TestExpectedAttention:
    def test_looks_ahead_of_the_context_and_not_of_the_span(self) -> None:
        layer, span = make_layer(20), Span(4, 13, 0, 2)
        cut = replace(layer, q=layer.q[:, :13], k=layer.k[:, :13], v=layer.v[:, :13])
        assert not torch.allclose(rule("expected_attention", cut)(span), rule("expected_attention", layer)(span))


SCORES = st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0, INF])


class TestChunkkv:
    def score(self, base: Tensor, chunk: int) -> Tensor:
        return scores.chunkkv(make_layer(base.shape[1]), Span(0, base.shape[1]), lambda span: base, chunk=chunk)

    @given(data=st.data())
    @settings(max_examples=100)
    def test_ties_protected_pairs_and_infinities(self, data: st.DataObject) -> None:
        n, heads = data.draw(st.integers(1, 14), "n"), data.draw(st.sampled_from([1, 2, 4]), "kv_heads")
        rows = data.draw(st.lists(st.lists(SCORES, min_size=n, max_size=n), min_size=heads, max_size=heads))
        layer, base = make_layer(n, kv_heads=heads), torch.tensor(rows)
        check("chunkkv", layer, Span(0, n), base=lambda span: base, chunk=data.draw(st.integers(1, 16), "chunk"))

    def test_keeps_whole_runs_and_cuts_the_last_that_does_not_fit(self) -> None:
        base = torch.tensor([[1.0, 9, 2, 3, 0, 0, 0, 7, 0, 4, 5]])  # means 4, 1, 7/3, 4.5
        order = self.score(base, 3)[0].argsort(descending=True).tolist()
        assert order == [10, 9, 1, 2, 0, 7, 8, 6, 3, 5, 4]

    def test_all_heads_keep_the_same(self) -> None:
        found = self.score(torch.randn(4, 30, generator=torch.Generator().manual_seed(0)), 4)
        assert (found == found[0]).all() and found[0].sort().values.tolist() == list(range(30))

    def test_a_run_with_protected_pairs_goes_before_others(self) -> None:
        found = self.score(torch.tensor([[5.0, 5, 5, 0, 0, INF, 4, 4, 4]]), 3)
        assert found.tolist() == [[6, 7, 8, 0, 1, INF, 3, 4, 5]]
        found = self.score(torch.tensor([[0.5, 0.5, 0.5, 0, 0.2, INF, 0, 0, 0]]), 3)
        assert found.tolist() == [[3, 4, 5, 6, 7, INF, 0, 1, 2]]

    @pytest.mark.parametrize("value", [INF, -INF, 1.0])
    def test_equal_scores_go_by_position(self, value: float) -> None:
        expected = [INF] * 7 if value == INF else list(range(7))
        assert self.score(torch.full((2, 7), value), 3).tolist() == [expected] * 2

    def test_equal_scores_are_equal_in_runs_of_any_length(self) -> None:
        assert self.score(torch.full((3, 50), 0.1), 7).tolist() == [list(range(50))] * 3

    def test_a_run_longer_than_the_span_is_the_base_averaged_over_heads(self) -> None:
        base = torch.tensor([[3.0, 0, 1], [0, 1, 1]])
        assert self.score(base, 10**12).tolist() == [[2, 0, 1]] * 2

    def test_what_is_not_a_number_is_not_hidden(self) -> None:
        assert self.score(torch.tensor([[1.0, math.nan, 2.0]]), 2).isnan().tolist() == [[False, True, False]]


def test_presses_that_replay_need_one() -> None:
    with pytest.raises(ValueError, match="was not replayed"):
        scores.kvzip(make_layer(9, replayed=None), Span(0, 9))
    with pytest.raises(ValueError, match=r"finch .*was not run against this context"):
        scores.finch(make_layer(9, replayed_by_query_head=None), Span(0, 9))


class TestRandom:
    def noise(self, span: Span, seed: int = 0, **options: int) -> Tensor:
        return scores.random(make_layer(40, **options), span, seed=seed)

    def test_is_uniform_noise_for_each_head(self) -> None:
        noise = scores.random(make_layer(4000), Span(0, 4000), seed=0)
        assert noise.shape == (2, 4000) and noise.min() >= 0 and noise.max() < 1
        assert abs(noise.mean() - 0.5) < 0.02 and not torch.equal(noise[0], noise[1])

    def test_depends_on_seed_context_and_layer_only(self) -> None:
        base = self.noise(Span(0, 40))
        torch.manual_seed(12345)
        assert torch.equal(base, self.noise(Span(0, 40), rng=7))
        for other in ({"seed": 1}, {"options": {"seed": 1}}, {"options": {"index": 1}}):
            changed = scores.random(make_layer(40, **other.get("options", {})), Span(0, 40), seed=other.get("seed", 0))
            assert not torch.equal(base, changed)

    @given(cuts=st.sets(st.integers(1, 39), max_size=4))
    @settings(max_examples=20)
    def test_does_not_depend_on_how_spans_are_cut(self, cuts: set[int]) -> None:
        edges = [0, *sorted(cuts), 40]
        pieces = [self.noise(Span(a, b, i, len(edges) - 1)) for i, (a, b) in enumerate(pairwise(edges))]
        assert torch.equal(torch.cat(pieces, -1), self.noise(Span(0, 40)))
