"""Scoring rules: how much each KV pair of a span is worth. Larger is kept.

A rule is a pure function ``rule(layer, span, **parameters) -> Tensor[kv_heads, len(span)]`` in float32. It sees one
layer of one context and one span of it: the whole context when eviction is plain, one segment when it is fair.
A score of ``+inf`` protects a pair: it is kept before any other, the latest first if the budget is too small for all.

Notation: a layer holds q ``[heads, n, dim]`` and k, v ``[kv_heads, n, dim]`` after RoPE, and
``A = causal softmax(q·kᵀ·scaling)`` over all keys a query sees, those outside the span included.

A rule that wraps a press is also given ``base``, the wrapped scores as a function of the span.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import PROTECTED, Layer, Span, attention_weights
from fairkv_eval.eviction.quotas import floor_of


def streaming_llm(layer: Layer, span: Span, *, sinks: int) -> Tensor:
    """Recency, with the context's first ``sinks`` tokens protected (arXiv 2309.17453)."""
    positions = torch.arange(span.start, span.stop, device=layer.k.device)
    recency = positions.float().masked_fill(positions < sinks, PROTECTED)
    return recency.expand(layer.kv_heads, -1)


def snapkv(layer: Layer, span: Span, *, window: int, kernel: int) -> Tensor:
    """Attention of the span's last queries to each earlier key, pooled along the keys (arXiv 2404.14469).

    The window is split evenly over the spans that share a context, and its own tokens are protected.
    """
    window = min(max(window // span.count, 1), len(span))
    seen = span.stop - window
    if seen == span.start:
        return torch.full((layer.kv_heads, len(span)), PROTECTED, device=layer.k.device)
    weights = layer.attention(seen, span.stop)[:, :, span.start : seen].mean(1)  # [heads, len(span) - window]
    pooled = F.avg_pool1d(weights, kernel, stride=1, padding=kernel // 2)
    return F.pad(layer.per_kv_head(pooled), (0, window), value=PROTECTED)


def h2o(layer: Layer, span: Span, *, recent: float = 0.0) -> Tensor:
    """Attention a key collects from the span's queries, divided by their number (arXiv 2306.14048).

    ``recent`` is the part of the span's budget that goes to its last tokens, which are protected.
    """
    total = layer.column_sums(span.start, span.stop)
    observers = torch.arange(len(span), 0, -1, device=layer.k.device)
    newest = observers <= floor_of(span.budget, recent)
    return layer.per_kv_head(total / observers).masked_fill(newest, PROTECTED)


def tova(layer: Layer, span: Span) -> Tensor:
    """Attention of the span's last query, averaged over all query heads: one ranking for all (arXiv 2401.06104)."""
    weights = layer.attention(span.stop - 1, span.stop)[:, 0, span.start :].mean(0)
    weights[-1] = PROTECTED
    return weights.expand(layer.kv_heads, -1)


def knorm(layer: Layer, span: Span) -> Tensor:
    """Minus the Euclidean norm of the key (arXiv 2406.11430)."""
    return -layer.k[:, span.start : span.stop].float().norm(dim=-1)  # type: ignore[no-any-return]  # torch says Any


def keydiff(layer: Layer, span: Span) -> Tensor:
    """How little the key points the way the span's keys do on average (arXiv 2504.15364)."""
    keys = layer.k[:, span.start : span.stop].float()
    mean = F.normalize(keys, dim=-1).mean(1, keepdim=True)
    similarity: Tensor = F.cosine_similarity(keys, mean, dim=-1)
    return -similarity


def lagkv(layer: Layer, span: Span, *, sinks: int, lag: int) -> Tensor:
    """Rank, among the ``lag`` tokens of its partition, of how unevenly a pair's channels lie in the range that those of
    the next partition span, keys and values averaged (arXiv 2504.04704).

    The context's first ``sinks`` tokens, the last whole partition and the tokens after it are protected. A span with
    less than two partitions after its sinks is scored by recency.
    """
    first = min(max(sinks, span.start), span.stop)
    scored = (span.stop - first) // lag * lag - lag
    if scored <= 0:
        return streaming_llm(layer, span, sinks=sinks)
    k, v = (states[:, first : first + scored + lag].float().unflatten(1, (-1, lag)) for states in (layer.k, layer.v))
    ranks = (_lag_spread(k) + _lag_spread(v)).argsort(dim=-1, stable=True).argsort(-1).flatten(1).float()
    return F.pad(ranks, (first - span.start, span.stop - first - scored), value=PROTECTED)


def _lag_spread(partitions: Tensor) -> Tensor:
    """``[kv_heads, m, lag, dim]`` to ``[kv_heads, m - 1, lag]``: deviation over the channels, relative to the next
    partition's smallest and largest value of each, as a softmax over the partition."""
    low, high = partitions[:, 1:].aminmax(dim=-2, keepdim=True)
    # A channel that is constant in the next partition carries no information: 0 and not 0/0.
    width = (high - low).masked_fill(high == low, float("inf"))
    return ((partitions[:, :-1] - low) / width).std(-1).softmax(-1)


def expected_attention(layer: Layer, span: Span, *, sinks: int, horizon: int) -> Tensor:
    """Attention that a key would get from queries like the span's at the context's next ``horizon`` positions, times
    the norm of its value (arXiv 2510.00636).

    Queries are modelled as Gaussian: E[exp(q·k·scaling)] = exp(μ·k·scaling + kᵀΣk·scaling²/2). μ and Σ are those of the
    span's queries without their rotation, turned on by the mean rotation of the positions to come. The context's
    first ``sinks`` tokens are left out and protected. A bound on the logits (softcap) is left out: the
    expectation has no closed form under it. UsageError if the layer's rotation is not known.
    """
    if layer.rotation is None:
        raise UsageError(
            "expected_attention needs to know how the model rotates its queries, and this model's rotation is not known"
        )
    first = min(max(sinks, span.start), span.stop)
    if first == span.stop:
        return torch.full((layer.kv_heads, len(span)), PROTECTED, device=layer.k.device)
    k, v = (states[:, first : span.stop].float() for states in (layer.k, layer.v))
    n = layer.k.shape[1]
    positions = torch.arange(first, span.stop, device=k.device)
    queries = layer.rotation.rotate(layer.q[:, first : span.stop].float(), -positions)
    ahead = layer.rotation.mean(n, n + horizon).to(k.device)
    mean = queries.mean(1, keepdim=True)
    deviation = queries - mean  # [heads, len(span) - sinks, dim]
    covariance = ahead @ (deviation.mT @ deviation / len(positions)) @ ahead.T  # [heads, dim, dim]
    k = k.repeat_interleave(len(queries) // layer.kv_heads, 0)
    logits = k @ (mean @ ahead.T).mT * layer.scaling  # [heads, len(span) - sinks, 1]
    logits += (k @ covariance * k).sum(-1, keepdim=True) * (layer.scaling**2 / 2)
    weights = layer.per_kv_head(logits[..., 0].softmax(-1))
    return F.pad(weights * v.norm(dim=-1), (first - span.start, 0), value=PROTECTED)


def chunkkv(layer: Layer, span: Span, base: Callable[[Span], Tensor], *, chunk: int) -> Tensor:
    """Runs of ``chunk`` tokens by their mean base score over tokens and heads, whole runs first (arXiv 2502.00299).

    A position's score is the number of the span's positions that are worth less: those of worse runs, and in its own
    run those of lower base score (mean over the heads); later runs and later positions win ties. So the one run that a
    budget cuts loses its worst tokens, and all heads keep the same. A pair that the base protects stays protected, and
    counts in the means as one more than the highest other score.
    """
    scores = base(span).float()
    protected = scores == PROTECTED
    top = scores.masked_fill(protected, float("-inf")).max() + 1
    # In float64 the mean of equal scores is that score, however long the run, and ties are ties.
    worth = scores.where(~protected, top).double().mean(0)
    chunk = min(chunk, len(span))
    runs = F.pad(worth, (0, -len(span) % chunk), value=float("nan")).view(-1, chunk).nanmean(-1)
    place = runs.argsort(stable=True).argsort()  # of each run, the worst first
    order = worth.argsort(stable=True)
    order = order[place[order // chunk].argsort(stable=True)]
    return torch.where(protected | scores.isnan(), scores, order.argsort().float())


def kvzip(layer: Layer, span: Span) -> Tensor:
    """The most attention a key got from any query of a replay of the context, in any head (arXiv 2505.23416).

    ValueError if the context was not replayed.
    """
    if layer.replayed is None:
        raise ValueError("kvzip scores what a replay of the context attends to, and this context was not replayed")
    return layer.replayed[:, span.start : span.stop].float()


def random(layer: Layer, span: Span, *, seed: int) -> Tensor:
    """Uniform noise, the control: a function of the seed, the context's tokens, the layer and the position."""
    generator = torch.Generator().manual_seed(hash((seed, layer.seed, layer.index)) & (2**63 - 1))
    noise = torch.rand(layer.k.shape[1], layer.kv_heads, generator=generator)
    return noise[span.start : span.stop].T.to(layer.k.device)


def tova_decoding(layer: Layer, span: Span) -> Tensor:
    """Attention of the last query, averaged over all query heads; its own pair is protected (arXiv 2401.06104)."""
    weights = attention_weights(layer.q, layer.k, layer.scaling, layer.softcap)[:, 0].mean(0)
    weights[-1] = PROTECTED
    return weights.expand(layer.kv_heads, -1)


def h2o_decoding(layer: Layer, span: Span, *, recent: float) -> Tensor:
    """Attention a key has received so far, divided by the number of queries that saw it (arXiv 2306.14048)."""
    if layer.received is None:
        raise ValueError("h2o scores the attention that pairs received while decoding, and none was collected")
    newest = torch.arange(len(span), device=layer.k.device) >= len(span) - floor_of(span.budget, recent)
    return layer.received.masked_fill(newest, PROTECTED)
