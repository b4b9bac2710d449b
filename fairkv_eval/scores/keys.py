"""Rules that look at keys, or keys and values, and at no query."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span
from fairkv_eval.scores.positions import streaming_llm


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
