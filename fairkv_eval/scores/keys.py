"""Rules that look at keys, or keys and values, and at no query."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import PROTECTED, Layer, Span
from fairkv_eval.scores.linear_algebra import leverages, sketched
from fairkv_eval.scores.positions import streaming_llm

_RIDGE = 1e-2  # added to the diagonal of a Gram matrix, as published, so that few keys or alike ones have an inverse


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


def leverage(layer: Layer, span: Span, *, sketch: int) -> Tensor:
    """How far a key stands out among the span's keys: the diagonal of X·(XᵀX)⁻¹·Xᵀ (arXiv 2507.08143).

    X are the keys without their rotation, less their mean, times a random matrix with ``sketch`` columns. Columns as
    many as channels change nothing but rounding, so then the keys themselves are taken. UsageError if the layer's
    rotation is not known.
    """
    if layer.rotation is None:
        raise UsageError(
            "leverage needs to know how the model rotates its keys, and this model's rotation is not known"
        )
    positions = torch.arange(span.start, span.stop, device=layer.k.device)
    keys = layer.rotation.rotate(layer.k[:, span.start : span.stop].float(), -positions)
    keys = keys - keys.mean(1, keepdim=True)
    if sketch < keys.shape[-1]:
        keys = sketched(layer, keys, sketch)
    exact = keys.double()
    return leverages(keys, exact.mT @ exact + _RIDGE * torch.eye(keys.shape[-1], device=keys.device))


def cur(layer: Layer, span: Span, *, sinks: int, window: int, combine: str, sketch: int) -> Tensor:
    """A pair's part of the squared norms of the ``window`` pairs around it, for keys and for values
    (arXiv 2509.15038).

    Windows follow one another from the span's start. ``combine``: the product or the mean of the two, or that of the
    keys or values alone; the scores of a head add up to 1. ``sketch``: norms are those of the vectors times a random
    matrix of so many columns; 0: of the vectors themselves. The context's first ``sinks`` tokens are protected.
    """
    of_keys, of_values = (
        _local_share(layer, states[:, span.start : span.stop].float(), window, sketch) for states in (layer.k, layer.v)
    )
    mean = (of_keys + of_values) / 2
    shares = {"product": of_keys * of_values, "mean": mean, "keys": of_keys, "values": of_values}[combine]
    positions = torch.arange(span.start, span.stop, device=layer.k.device)
    return _parts(shares).masked_fill(positions < sinks, PROTECTED)


def _local_share(layer: Layer, vectors: Tensor, window: int, sketch: int) -> Tensor:
    """``[kv_heads, n, dim]`` to the part ``[kv_heads, n]`` of each squared norm in its window."""
    norms = (sketched(layer, vectors, sketch) if sketch else vectors).square().sum(-1)
    n = norms.shape[1]
    window = min(window, n)
    return _parts(F.pad(norms, (0, -n % window)).unflatten(1, (-1, window))).flatten(1)[:, :n]


def _parts(numbers: Tensor) -> Tensor:
    """Each number as a part of the sum along the last dimension; 0 if that is 0."""
    return numbers / numbers.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
