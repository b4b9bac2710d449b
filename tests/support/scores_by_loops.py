"""Every scoring rule as plain loops over its definition, and tiny random layers to score."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from hypothesis import assume, currently_in_test_context
from torch import Tensor, nn

from fairkv_eval.attention.output_projection import OutputProjection
from fairkv_eval.scores import Layer, Span

INF = float("inf")
FREQUENCIES = (1.0, 0.3)  # of the channels (0, 1) and (2, 3)


class Turn:
    """A rotary embedding of four channels."""

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None] * torch.tensor(FREQUENCIES)
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (2, 2))) * torch.exp(1j * angles)).flatten(-2)

    def mean(self, start: int, stop: int) -> Tensor:
        positions = torch.arange(start, stop)
        return torch.stack([self.rotate(e.expand(len(positions), 4), positions).mean(0) for e in torch.eye(4)], 1)


@cache
def output_of(heads: int, dim: int, hidden: int = 5) -> OutputProjection:
    """The output projection of an attention module with random weights."""
    attention = nn.Module()
    attention.o_proj = nn.Linear(heads * dim, hidden)
    weights = torch.randn(hidden, heads * dim, generator=torch.Generator().manual_seed(heads))
    attention.o_proj.weight = nn.Parameter(weights, requires_grad=False)
    return OutputProjection(attention)


def make_layer(n: int, kv_heads: int = 2, group: int = 3, dim: int = 4, rng: int = 0, **options) -> Layer:
    generator = torch.Generator().manual_seed(rng)
    q, k, v = (torch.randn(h, n, dim, generator=generator) * 2 for h in (kv_heads * group, kv_heads, kv_heads))
    replayed = torch.rand(kv_heads, n, generator=generator)
    heads, scale = kv_heads * group, torch.randn(kv_heads * group, dim, dim, generator=generator) / 4
    statistics = {
        "filters": torch.randn(kv_heads, dim, generator=generator),
        "mean": torch.randn(heads, dim, generator=generator),
        "covariance": scale @ scale.mT,
    }
    everywhere = {"retrieval": torch.rand(3, kv_heads, generator=generator)}
    known = {"rotation": Turn(), "replayed": replayed, "statistics": statistics, "model_statistics": everywhere}
    known["replayed_by_query_head"] = torch.rand(heads, n, generator=generator)
    known["output"] = output_of(heads, dim)
    return Layer(q, k, v, scaling=dim**-0.5, **{**known, **options})


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


def h2o_by_loops(layer: Layer, span: Span, recent: float) -> list[list[float]]:
    newest = min(math.floor(recent * span.budget + 1e-6), len(span))
    per_head = [
        [sum(rows[i][j] for i in range(j, span.stop)) / (span.stop - j) for j in range(span.start, span.stop)]
        for rows in attention_by_loops(layer)
    ]
    return [row[: len(row) - newest] + [INF] * newest for row in group_mean(layer, per_head)]


def tova_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    matrix = attention_by_loops(layer)
    last = span.stop - 1
    mean = [sum(rows[last][j] for rows in matrix) / len(matrix) for j in range(span.start, last)]
    return [[*mean, INF]] * layer.kv_heads


def knorm_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    return [[-math.sqrt(sum(x * x for x in key)) for key in head[span.start : span.stop]] for head in layer.k.tolist()]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def softmax(logits: list[float]) -> list[float]:
    exps = [math.exp(x - max(logits)) for x in logits]
    return [x / sum(exps) for x in exps]


def keydiff_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    rows = []
    for head in layer.k.tolist():
        keys = head[span.start : span.stop]
        units = [[x / math.sqrt(dot(key, key)) for x in key] for key in keys]
        mean = [sum(column) / len(keys) for column in zip(*units, strict=True)]
        rows.append([-dot(unit, mean) / math.sqrt(dot(mean, mean)) for unit in units])
    return rows


def lagkv_by_loops(layer: Layer, span: Span, sinks: int, lag: int) -> list[list[float]]:
    own = [j for j in range(span.start, span.stop) if j >= sinks]
    if len(own) < 2 * lag:
        return streaming_llm_by_loops(layer, span, sinks)
    partitions = [own[a : a + lag] for a in range(0, len(own) - lag + 1, lag)]
    rows = []
    for k, v in zip(layer.k.tolist(), layer.v.tolist(), strict=True):
        row = dict.fromkeys(range(span.start, span.stop), INF)
        for these, following in pairwise(partitions):
            worth = [sum(pair) / 2 for pair in zip(*(spreads(x, these, following) for x in (k, v)), strict=True)]
            if currently_in_test_context():  # single precision may order those that are nearly equal either way
                assume(all(a == b or b - a > 1e-5 for a, b in pairwise(sorted(worth))))
            for i, j in enumerate(these):
                row[j] = sum((other, o) < (worth[i], i) for o, other in enumerate(worth))
        rows.append(list(row.values()))
    return rows


def spreads(states: list[list[float]], these: list[int], following: list[int]) -> list[float]:
    deviations = []
    for j in these:
        relative = []
        for channel, x in enumerate(states[j]):
            reference = [states[i][channel] for i in following]
            width = max(reference) - min(reference)
            relative.append((x - min(reference)) / width if width else 0.0)
        mean = sum(relative) / len(relative)
        deviations.append(math.sqrt(sum((x - mean) ** 2 for x in relative) / (len(relative) - 1)))
    return softmax(deviations)


def turned(x: list[float], angles: list[float]) -> list[float]:
    pairs = [
        (x[2 * i] * math.cos(a) - x[2 * i + 1] * math.sin(a), x[2 * i] * math.sin(a) + x[2 * i + 1] * math.cos(a))
        for i, a in enumerate(angles)
    ]
    return [channel for pair in pairs for channel in pair]


def expected_attention_by_loops(layer: Layer, span: Span, sinks: int, horizon: int) -> list[list[float]]:
    """The expectation from projections: queries turned to each position of the horizon, averaged, against a key."""
    n, group = layer.k.shape[1], layer.q.shape[0] // layer.kv_heads
    scored = [j for j in range(span.start, span.stop) if j >= sinks]
    if not scored:
        return [[INF] * len(span)] * layer.kv_heads
    rows = []
    for k, v, queries in zip(
        layer.k.tolist(), layer.v.tolist(), layer.q.unflatten(0, (-1, group)).tolist(), strict=True
    ):
        total = dict.fromkeys(scored, 0.0)
        for q in queries:
            plain = [turned(q[j], [-j * f for f in FREQUENCIES]) for j in scored]
            ahead = [
                [sum(column) / horizon for column in zip(*views, strict=True)]
                for views in ([turned(x, [p * f for f in FREQUENCIES]) for p in range(n, n + horizon)] for x in plain)
            ]
            logits = []
            for j in scored:
                products = [layer.scaling * dot(x, k[j]) for x in ahead]
                mean = sum(products) / len(scored)
                logits.append(mean + sum((x - mean) ** 2 for x in products) / len(scored) / 2)
            for j, weight in zip(scored, softmax(logits), strict=True):
                total[j] += weight / group
        worth = [total[j] * math.sqrt(dot(v[j], v[j])) for j in scored]
        rows.append([INF] * (len(span) - len(scored)) + worth)
    return rows


def expected_attention_stats_by_loops(layer: Layer, span: Span, sinks: int, horizon: int) -> list[list[float]]:
    """The expectation written out in sums over channels, with the rotation averaged position by position."""
    n, group, dim = layer.k.shape[1], layer.q.shape[0] // layer.kv_heads, layer.k.shape[2]
    scored = [j for j in range(span.start, span.stop) if j >= sinks]
    units = [[float(i == j) for j in range(dim)] for i in range(dim)]
    views = [[turned(unit, [p * f for f in FREQUENCIES]) for unit in units] for p in range(n, n + horizon)]
    ahead = [[sum(view[i][j] for view in views) / horizon for j in range(dim)] for i in range(dim)]  # of unit i
    rows = []
    for h, (keys, values) in enumerate(zip(layer.k.tolist(), layer.v.tolist(), strict=True)):
        total = dict.fromkeys(scored, 0.0)
        for head in range(h * group, (h + 1) * group):
            mean = layer.statistics["mean"][head].tolist()
            covariance = layer.statistics["covariance"][head].tolist()
            logits = []
            for j in scored:
                seen = [layer.scaling * dot(ahead[i], keys[j]) for i in range(dim)]  # a query channel's part
                spread = sum(seen[a] * covariance[a][b] * seen[b] for a in range(dim) for b in range(dim))
                logits.append(dot(mean, seen) + spread / 2)
            for j, weight in zip(scored, softmax(logits) if scored else [], strict=True):
                total[j] += weight / group
        worth = [total[j] * math.sqrt(dot(values[j], values[j])) for j in scored]
        rows.append([INF] * (len(span) - len(scored)) + worth)
    return rows


def qfilter_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    filters = layer.statistics["filters"].tolist()
    heads = zip(layer.k.tolist(), filters, strict=True)
    return [[dot(key, direction) for key in keys[span.start : span.stop]] for keys, direction in heads]


def duo_attention_by_loops(layer: Layer, span: Span, sparsity: float, sinks: int, recent: int) -> list[list[float]]:
    values = layer.model_statistics["retrieval"].tolist()
    heads = sorted((worth, place, head) for place, row in enumerate(values) for head, worth in enumerate(row))
    streaming = {(place, head) for _, place, head in heads[: round(len(heads) * sparsity)]}
    rows = []
    for head in range(layer.kv_heads):
        first = layer.k.shape[1] - recent if (layer.index, head) in streaming else 0
        rows.append([INF if j < sinks else float(j - first) for j in range(span.start, span.stop)])
    return rows


def kvcompose_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    assert layer.replayed_by_query_head is not None
    heads = group_mean(layer, layer.replayed_by_query_head.tolist())
    means = [sum(column) / len(heads) for column in zip(*heads, strict=True)]
    return [[x + means[j] for j, x in enumerate(row)][span.start : span.stop] for row in heads]


def simlayerkv_by_loops(
    layer: Layer, span: Span, threshold: float, sinks: int, recent: int, last: int
) -> list[list[float]]:
    n, first = layer.k.shape[1], 0
    if n > sinks + recent + last and threshold < 1:
        seen = n - last
        rows = [head[i] for head in attention_by_loops(layer) for i in range(seen, n)]
        near = [sum(row[:sinks][:seen]) + sum(row[max(0, seen - recent) : seen]) for row in rows]
        if sum(near) / len(near) > threshold:
            first = n - max(recent - last, 0)
    return [[INF if j < sinks else float(j - first) for j in range(span.start, span.stop)]] * layer.kv_heads


def threshold_by_loops(layer: Layer, span: Span, base: Callable[[Span], Tensor], protect: int) -> list[list[float]]:
    n = layer.k.shape[1]
    return [[INF if span.start + i >= n - protect else x for i, x in enumerate(row)] for row in base(span).tolist()]


def blockwise_by_loops(layer: Layer, span: Span, base: Callable, block_size: int) -> list[list[float]]:
    """With the norms of keys, which do not depend on what else is there."""
    rows, budget = [], max(span.budget, 1)
    for norms in knorm_by_loops(layer, span):
        if len(span) <= budget:
            rows.append(norms)
            continue
        kept, evicted, waiting = list(range(budget)), [], list(range(budget, len(span)))
        while waiting:
            kept, waiting = kept + waiting[:block_size], waiting[block_size:]
            kept.sort(key=lambda i, norms=norms: (norms[i], i))
            evicted, kept = evicted + kept[: len(kept) - budget], kept[len(kept) - budget :]
        order = evicted + kept
        rows.append([float(order.index(i)) for i in range(len(span))])
    return rows


def chunkkv_by_loops(layer: Layer, span: Span, base: Callable[[Span], Tensor], chunk: int) -> list[list[float]]:
    rows = base(span).tolist()
    free = [x for row in rows for x in row if x != INF]
    top = max(free) + 1 if free else -INF
    worth = [sum(min(x, top) for x in column) / len(rows) for column in zip(*rows, strict=True)]
    runs = [worth[a : a + chunk] for a in range(0, len(span), chunk)]
    keys = [(sum(runs[j // chunk]) / len(runs[j // chunk]), j // chunk, worth[j], j) for j in range(len(span))]
    return [[INF if x == INF else sum(key < keys[j] for key in keys) for j, x in enumerate(row)] for row in rows]


def criticalkv_by_loops(
    layer: Layer,
    span: Span,
    base: Callable[[Span], Tensor],
    first: float,
    epsilon: float,
    pooled: bool,
    safeguard: float,
) -> list[list[float]]:
    scores = base(span).tolist()
    if pooled and not span.head_budgets:
        return scores
    assert layer.output is not None
    weight, dim = layer.output.attention.o_proj.weight.tolist(), layer.v.shape[2]  # [hidden][channels]
    group, rows = layer.q.shape[0] // layer.kv_heads, []
    for head, (row, values) in enumerate(zip(scores, layer.v.tolist(), strict=True)):
        budget = span.head_budgets[head] if span.head_budgets else span.budget
        chosen = math.floor(budget * first + 1e-6)
        if pooled:
            chosen = max(chosen, math.floor(span.budget * safeguard + 1e-6))
        best = sorted(range(len(row)), key=lambda i, row=row: (row[i], i), reverse=True)[:chosen]
        protected = {i for i, x in enumerate(row) if x == INF or i in best}
        lowest = min([0.0, *(x for i, x in enumerate(row) if i not in protected)])
        result = []
        for i, x in enumerate(row):
            size = 0.0
            for query in range(head * group, (head + 1) * group):
                columns = slice(query * dim, (query + 1) * dim)
                size += sum(abs(dot(values[span.start + i], out[columns])) for out in weight) / group
            result.append(INF if i in protected else (x - lowest + epsilon) * size)
        rows.append(result)
    return rows


def kvzip_by_loops(layer: Layer, span: Span, variant: str) -> list[list[float]]:
    if variant == "original":
        assert layer.replayed is not None
        return [row[span.start : span.stop] for row in layer.replayed.tolist()]
    assert layer.replayed_by_query_head is not None and layer.output is not None
    weight, dim = layer.output.attention.o_proj.weight.tolist(), layer.v.shape[2]
    group, by_head = layer.q.shape[0] // layer.kv_heads, layer.replayed_by_query_head.tolist()
    rows = []
    for kv_head, values in enumerate(layer.v.tolist()):
        row = []
        for j in range(span.start, span.stop):
            sizes = []
            for head in range(kv_head * group, (kv_head + 1) * group):
                added = [dot(out[head * dim : (head + 1) * dim], values[j]) for out in weight]
                sizes.append(by_head[head][j] * math.sqrt(dot(added, added)))
            row.append(max(sizes))
        rows.append(row)
    return rows


def solved(matrix: list[list[float]], right: list[float]) -> list[float]:
    """The solution of a linear system, by elimination."""
    rows = [[*row, b] for row, b in zip(matrix, right, strict=True)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda j: abs(rows[j][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for j in range(len(rows)):
            if j != i:
                factor = rows[j][i] / rows[i][i]
                rows[j] = [a - factor * b for a, b in zip(rows[j], rows[i], strict=True)]
    return [row[-1] / row[i] for i, row in enumerate(rows)]


def form(x: list[float], matrix: list[list[float]]) -> float:
    """x·matrix⁻¹·x"""
    return dot(x, solved(matrix, x))


def gram(vectors: list[list[float]], weights: list[float], ridge: float) -> list[list[float]]:
    """Σ w·x·xᵀ, and the ridge on its diagonal."""
    channels = range(len(vectors[0]))
    return [
        [
            sum(w * x[a] * x[b] for x, w in zip(vectors, weights, strict=True)) + (ridge if a == b else 0.0)
            for b in channels
        ]
        for a in channels
    ]


def noise(layer: Layer, dim: int, columns: int) -> list[list[list[float]]]:
    """The random matrix of each KV head."""
    generator = torch.Generator().manual_seed(hash((layer.seed, layer.index)) & (2**63 - 1))
    return (torch.randn(layer.kv_heads, dim, columns, generator=generator) / math.sqrt(columns)).tolist()


def times(x: list[float], matrix: list[list[float]]) -> list[float]:
    return [dot(x, list(column)) for column in zip(*matrix, strict=True)]


def mean_of(vectors: list[list[float]]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def leverage_by_loops(layer: Layer, span: Span, sketch: int) -> list[list[float]]:
    rows = []
    for head, matrix in zip(layer.k.tolist(), noise(layer, layer.k.shape[2], sketch), strict=True):
        plain = [turned(head[j], [-j * f for f in FREQUENCIES]) for j in range(span.start, span.stop)]
        mean = mean_of(plain)
        keys = [[a - b for a, b in zip(key, mean, strict=True)] for key in plain]
        if sketch < len(mean):
            keys = [times(key, matrix) for key in keys]
        together = gram(keys, [1.0] * len(keys), 0.01)
        rows.append([form(key, together) for key in keys])
    return rows


def noncausal_attention_by_loops(layer: Layer, span: Span, block: int) -> list[list[float]]:
    q, group = layer.q.tolist(), layer.q.shape[0] // layer.kv_heads
    rows = []
    for head, (k, v) in enumerate(zip(layer.k.tolist(), layer.v.tolist(), strict=True)):
        worth = []
        for start in range(span.start, span.stop, block):
            in_block = range(start, min(start + block, span.stop))
            total = dict.fromkeys(in_block, 0.0)
            for queries in q[head * group : (head + 1) * group]:
                for i in in_block:
                    for j, weight in zip(in_block, softmax([dot(queries[i], k[j]) for j in in_block]), strict=True):
                        total[j] += weight / group
            worth += [total[j] * math.sqrt(dot(v[j], v[j])) for j in in_block]
        padded = [0.0, *worth, 0.0]
        rows.append([sum(padded[j : j + 3]) / 3 for j in range(len(worth))])
    return rows


def standardized_by_loops(rows: list[list[float]]) -> list[list[float]]:
    numbers = [x for row in rows for x in row]
    mean = sum(numbers) / len(numbers)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in numbers) / max(len(numbers) - 1, 1))
    alike, nearly = (deviation <= part * max(map(abs, numbers)) for part in (1e-5, 1e-2))
    if currently_in_test_context():  # what single precision rounds off grows as much as the deviation is small
        assume(alike or not nearly)
    return [[0.0 if alike else (x - mean) / deviation for x in row] for row in rows]


def compactor_by_loops(
    layer: Layer, span: Span, sinks: int, recent: int, block: int, sketch: int, blend: float, by_ratio: bool
) -> list[list[float]]:
    scored = [j for j in range(span.start, span.stop) if sinks <= j < layer.k.shape[1] - recent]
    if not scored:
        return [[INF] * len(span)] * layer.kv_heads
    inner = Span(scored[0], scored[-1] + 1)
    weight = blend * (1 - span.budget / len(span)) if by_ratio else blend
    attention = standardized_by_loops(noncausal_attention_by_loops(layer, inner, block))
    leverages = standardized_by_loops(leverage_by_loops(layer, inner, sketch))
    before, after = [INF] * (scored[0] - span.start), [INF] * (span.stop - 1 - scored[-1])
    return [
        [*before, *(a + weight * b for a, b in zip(row, other, strict=True)), *after]
        for row, other in zip(attention, leverages, strict=True)
    ]


def cur_by_loops(layer: Layer, span: Span, sinks: int, window: int, combine: str, sketch: int) -> list[list[float]]:
    rows = []
    for head in range(layer.kv_heads):
        shares = []
        for states in (layer.k, layer.v):
            vectors = states[head, span.start : span.stop].tolist()
            if sketch:
                vectors = [times(x, noise(layer, states.shape[2], sketch)[head]) for x in vectors]
            norms = [dot(x, x) for x in vectors]
            near = [norms[i // window * window : (i // window + 1) * window] for i in range(len(norms))]
            shares.append([x / sum(others) if x else 0.0 for x, others in zip(norms, near, strict=True)])
        combined = {
            "product": [a * b for a, b in zip(*shares, strict=True)],
            "mean": [(a + b) / 2 for a, b in zip(*shares, strict=True)],
            "keys": shares[0],
            "values": shares[1],
        }[combine]
        total = sum(combined) or 1.0
        rows.append([INF if span.start + i < sinks else x / total for i, x in enumerate(combined)])
    return rows


def capkv_by_loops(layer: Layer, span: Span, sinks: int, horizon: int, sharpness: float) -> list[list[float]]:
    n, group = layer.k.shape[1], layer.q.shape[0] // layer.kv_heads
    scored = [j for j in range(span.start, span.stop) if j >= sinks]
    if not scored:
        return [[INF] * len(span)] * layer.kv_heads
    rows = []
    for k, v, queries in zip(
        layer.k.tolist(), layer.v.tolist(), layer.q.unflatten(0, (-1, group)).tolist(), strict=True
    ):
        total = dict.fromkeys(scored, 0.0)
        for q in queries:
            plain = mean_of([turned(q[j], [-j * f for f in FREQUENCIES]) for j in scored])
            ahead = mean_of([turned(plain, [p * f for f in FREQUENCIES]) for p in range(n, n + horizon)])
            cosines = [dot(ahead, k[j]) / math.sqrt(dot(ahead, ahead) * dot(k[j], k[j]) or 1.0) for j in scored]
            weights = [math.exp(sharpness * (x - max(cosines))) for x in cosines]
            capacity = gram([v[j] for j in scored], [w + 1e-6 for w in weights], 1.0)
            for j, weight in zip(scored, weights, strict=True):
                total[j] += weight * form(v[j], capacity) / group
        rows.append([INF] * (len(span) - len(scored)) + list(total.values()))
    return rows


def finch_by_loops(layer: Layer, span: Span) -> list[list[float]]:
    assert layer.replayed_by_query_head is not None
    return group_mean(layer, [row[span.start : span.stop] for row in layer.replayed_by_query_head.tolist()])


RULES: dict[str, tuple[Callable, dict[str, Any]]] = {
    "streaming_llm": (streaming_llm_by_loops, {"sinks": 3}),
    "snapkv": (snapkv_by_loops, {"window": 4, "kernel": 3}),
    "h2o": (h2o_by_loops, {"recent": 0.0}),
    "tova": (tova_by_loops, {}),
    "knorm": (knorm_by_loops, {}),
    "keydiff": (keydiff_by_loops, {}),
    "lagkv": (lagkv_by_loops, {"sinks": 2, "lag": 2}),
    "expected_attention": (expected_attention_by_loops, {"sinks": 2, "horizon": 5}),
    "expected_attention_stats": (expected_attention_stats_by_loops, {"sinks": 2, "horizon": 5}),
    "duo_attention": (duo_attention_by_loops, {"sparsity": 0.5, "sinks": 2, "recent": 4}),
    "qfilter": (qfilter_by_loops, {}),
    "chunkkv": (chunkkv_by_loops, {"chunk": 3}),
    "criticalkv": (criticalkv_by_loops, {"first": 0.5, "epsilon": 1e-4, "pooled": False, "safeguard": 0.2}),
    "kvzip": (kvzip_by_loops, {"variant": "original"}),
    "kvcompose": (kvcompose_by_loops, {}),
    "simlayerkv": (simlayerkv_by_loops, {"threshold": 0.5, "sinks": 1, "recent": 4, "last": 2}),
    "threshold": (threshold_by_loops, {"protect": 3}),
    "blockwise": (blockwise_by_loops, {"block_size": 3}),
    "finch": (finch_by_loops, {}),
    "leverage": (leverage_by_loops, {"sketch": 4}),
    "noncausal_attention": (noncausal_attention_by_loops, {"block": 5}),
    "compactor": (
        compactor_by_loops,
        {"sinks": 2, "recent": 1, "block": 5, "sketch": 3, "blend": 1.0, "by_ratio": True},
    ),
    "cur": (cur_by_loops, {"sinks": 2, "window": 4, "combine": "product", "sketch": 0}),
    "capkv": (capkv_by_loops, {"sinks": 2, "horizon": 5, "sharpness": 5.0}),
}
