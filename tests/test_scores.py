"""Every scoring rule against plain loops over its definition, on tiny random layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fairkv_eval import layer as layer_module
from fairkv_eval import scores
from fairkv_eval.scores import Layer, Span

INF = float("inf")


def make_layer(n: int, kv_heads: int = 2, group: int = 3, dim: int = 4, rng: int = 0, **options) -> Layer:
    generator = torch.Generator().manual_seed(rng)
    q, k, v = (torch.randn(h, n, dim, generator=generator) * 2 for h in (kv_heads * group, kv_heads, kv_heads))
    return Layer(q, k, v, scaling=dim**-0.5, **options)


def attention_by_loops(layer: Layer) -> list[list[list[float]]]:
    """A[head][query][key], zero for keys after the query."""
    q, k = layer.q.tolist(), layer.k.tolist()
    group, n = len(q) // len(k), len(k[0])
    matrix = []
    for head in range(len(q)):
        rows = []
        for i in range(n):
            logits = []
            for j in range(i + 1):
                logit = layer.scaling * sum(a * b for a, b in zip(q[head][i], k[head // group][j], strict=True))
                if layer.softcap is not None:
                    logit = layer.softcap * math.tanh(logit / layer.softcap)
                logits.append(logit)
            exps = [math.exp(x - max(logits)) for x in logits]
            rows.append([e / sum(exps) for e in exps] + [0.0] * (n - 1 - i))
        matrix.append(rows)
    return matrix


def group_mean(layer: Layer, per_head: list[list[float]]) -> list[list[float]]:
    group = len(per_head) // layer.kv_heads
    heads = [per_head[h * group : (h + 1) * group] for h in range(layer.kv_heads)]
    return [[sum(column) / group for column in zip(*rows, strict=True)] for rows in heads]


def streaming_llm_by_loops(layer: Layer, span: Span, sinks: int) -> list[list[float]]:
    return [[INF if j < sinks else float(j) for j in range(span.start, span.stop)]] * layer.kv_heads


def snapkv_by_loops(layer: Layer, span: Span, window: int, kernel: int) -> list[list[float]]:
    w = min(max(window // span.count, 1), span.stop - span.start)
    per_head = []
    for rows in attention_by_loops(layer):
        seen = range(span.start, span.stop - w)
        mean = {j: sum(rows[i][j] for i in range(span.stop - w, span.stop)) / w for j in seen}
        near = range(-(kernel // 2), kernel // 2 + 1)
        per_head.append([sum(mean.get(j + d, 0.0) for d in near) / kernel for j in seen])
    return [row + [INF] * w for row in group_mean(layer, per_head)]


def h2o_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    per_head = [
        [sum(rows[i][j] for i in range(j, span.stop)) / (span.stop - j) for j in range(span.start, span.stop)]
        for rows in attention_by_loops(layer)
    ]
    return group_mean(layer, per_head)


def tova_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    matrix = attention_by_loops(layer)
    last = span.stop - 1
    mean = [sum(rows[last][j] for rows in matrix) / len(matrix) for j in range(span.start, last)]
    return [[*mean, INF]] * layer.kv_heads


def knorm_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    return [[-math.sqrt(sum(x * x for x in key)) for key in head[span.start : span.stop]] for head in layer.k.tolist()]


RULES: dict[str, tuple[Callable, dict[str, int]]] = {
    "streaming_llm": (streaming_llm_by_loops, {"sinks": 3}),
    "snapkv": (snapkv_by_loops, {"window": 4, "kernel": 3}),
    "h2o": (h2o_by_loops, {}),
    "tova": (tova_by_loops, {}),
    "knorm": (knorm_by_loops, {}),
}


def check(name: str, layer: Layer, span: Span, **parameters) -> None:
    reference, defaults = RULES[name]
    parameters = {**defaults, **parameters}
    found = getattr(scores, name)(layer, span, **parameters)
    assert found.dtype == torch.float32 and found.shape == (layer.kv_heads, len(span))
    torch.testing.assert_close(found, torch.tensor(reference(layer, span, **parameters)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", RULES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
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
    parameters = {}
    if name == "snapkv":
        window = data.draw(st.sampled_from([1, 2, 5, 64]), "window")
        parameters = {"window": window, "kernel": data.draw(st.sampled_from([1, 3, 7]), "kernel")}
    if name == "streaming_llm":
        parameters = {"sinks": data.draw(st.sampled_from([0, 1, 4, 99]), "sinks")}
    check(name, layer, Span(start, stop, 0, count), **parameters)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("span", [Span(0, 12), Span(5, 12, 1, 2), Span(3, 9, 1, 3), Span(4, 5, 1, 3), Span(0, 1, 0, 2)])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_plain_and_fair_spans(name: str, span: Span, softcap: float | None) -> None:
    check(name, make_layer(12, softcap=softcap), span)


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


def test_blocks_are_the_rows_of_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", 1)
    layer = make_layer(50)
    whole = layer.attention(7, 50)
    row = 0
    for block in layer.attention_blocks(7, 50):
        rows, seen = block.shape[1:]
        torch.testing.assert_close(block, whole[:, row : row + rows, :seen])
        row += rows
    assert row == 43


@pytest.mark.parametrize("name", ["snapkv", "h2o", "tova"])
def test_no_rule_looks_behind_its_span(name: str) -> None:
    layer, span = make_layer(20), Span(4, 13, 0, 2)
    cut = Layer(layer.q[:, :13], layer.k[:, :13], layer.v[:, :13], layer.scaling)
    rule, (_, parameters) = getattr(scores, name), RULES[name]
    torch.testing.assert_close(rule(layer, span, **parameters), rule(cut, span, **parameters))


@pytest.mark.parametrize("name", RULES)
def test_half_precision_is_scored_in_float32(name: str) -> None:
    layer = make_layer(9)
    half = Layer(layer.q.bfloat16(), layer.k.bfloat16(), layer.v.bfloat16(), layer.scaling)
    exact = Layer(half.q.float(), half.k.float(), half.v.float(), half.scaling)
    rule, (_, parameters) = getattr(scores, name), RULES[name]
    found = rule(half, Span(2, 9), **parameters)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, rule(exact, Span(2, 9), **parameters))


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
    @settings(max_examples=20, deadline=None)
    def test_does_not_depend_on_how_spans_are_cut(self, cuts: set[int]) -> None:
        edges = [0, *sorted(cuts), 40]
        pieces = [self.noise(Span(a, b, i, len(edges) - 1)) for i, (a, b) in enumerate(pairwise(edges))]
        assert torch.equal(torch.cat(pieces, -1), self.noise(Span(0, 40)))
