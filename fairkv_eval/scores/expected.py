"""Rules that look at the attention of queries to come."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import PROTECTED, Layer, Span
from fairkv_eval.scores.linear_algebra import leverages

_LEAST_WEIGHT = 1e-6  # of any pair in the capacity, as published


def expected_attention(layer: Layer, span: Span, *, sinks: int, horizon: int) -> Tensor:
    """Attention that a key would get from queries like the span's at the context's next ``horizon`` positions, times
    the norm of its value (arXiv 2510.00636).

    Queries are modelled as Gaussian: E[exp(q·k·scaling)] = exp(μ·k·scaling + kᵀΣk·scaling²/2). μ and Σ are those of the
    span's queries without their rotation, turned on by the mean rotation of the positions to come. The context's
    first ``sinks`` tokens are left out and protected. A bound on the logits (softcap) is left out: the
    expectation has no closed form under it. UsageError if the layer's rotation is not known.
    """
    rotation, first = _rotation(layer, "expected_attention"), _first(span, sinks)
    positions = torch.arange(first, span.stop, device=layer.q.device)
    queries = rotation.rotate(layer.q[:, first : span.stop].float(), -positions)
    mean = queries.mean(1)
    deviation = queries - mean[:, None]  # [heads, len(span) - sinks, dim]
    return expected(layer, span, mean, deviation.mT @ deviation / len(positions), sinks, horizon)


def expected(layer: Layer, span: Span, mean: Tensor, covariance: Tensor, sinks: int, horizon: int) -> Tensor:
    """`expected_attention` of queries with this mean ``[heads, dim]`` and covariance ``[heads, dim, dim]`` before their
    rotation."""
    rotation, first = _rotation(layer, "expected_attention"), _first(span, sinks)
    if first == span.stop:
        return torch.full((layer.kv_heads, len(span)), PROTECTED, device=layer.k.device)
    k, v = (states[:, first : span.stop].float() for states in (layer.k, layer.v))
    n = layer.k.shape[1]
    ahead = rotation.mean(n, n + horizon).to(k.device)
    covariance = ahead @ covariance @ ahead.T
    k = k.repeat_interleave(len(mean) // layer.kv_heads, 0)
    logits = k @ (mean[:, None] @ ahead.T).mT * layer.scaling  # [heads, len(span) - sinks, 1]
    logits += (k @ covariance * k).sum(-1, keepdim=True) * (layer.scaling**2 / 2)
    weights = layer.per_kv_head(logits[..., 0].softmax(-1))
    return F.pad(weights * v.norm(dim=-1), (first - span.start, 0), value=PROTECTED)


def capkv(layer: Layer, span: Span, *, sinks: int, horizon: int, sharpness: float) -> Tensor:
    """How much of what the values can convey is lost with a pair: w·v·A⁻¹·vᵀ with A = I + Σ w·vᵀ·v (arXiv 2604.25975).

    A weight w is exp(sharpness · cosine of the key and the query to come), 1 at most, with the largest at 1. The query
    to come is the mean of the span's queries without their rotation, turned on by the mean rotation of the context's
    next ``horizon`` positions. A weight and a matrix belong to a query head; scores are averaged over those of a KV
    head. The context's first ``sinks`` tokens are left out and protected. UsageError if the layer's rotation is not
    known.
    """
    rotation, first = _rotation(layer, "capkv"), _first(span, sinks)
    if first == span.stop:
        return torch.full((layer.kv_heads, len(span)), PROTECTED, device=layer.k.device)
    n, positions = layer.k.shape[1], torch.arange(first, span.stop, device=layer.k.device)
    queries = rotation.rotate(layer.q[:, first : span.stop].float(), -positions).mean(1)
    query = queries @ rotation.mean(n, n + horizon).to(queries.device).T
    k, v = (states[:, first : span.stop].float() for states in (layer.k, layer.v))
    cosine = torch.einsum("hgd,hnd->hgn", F.normalize(query, dim=-1).unflatten(0, (len(k), -1)), F.normalize(k, dim=-1))
    weights = (sharpness * (cosine - cosine.amax(-1, keepdim=True))).exp()  # [kv_heads, group, n]
    scores = torch.stack([w * _capacity_share(v, w) for w in weights.unbind(1)]).mean(0)
    return F.pad(scores, (first - span.start, 0), value=PROTECTED)


def _capacity_share(v: Tensor, weights: Tensor) -> Tensor:
    """v·A⁻¹·vᵀ of values ``[kv_heads, n, dim]`` that count with these weights ``[kv_heads, n]`` in A."""
    exact = v.double()
    gram = (exact * (weights + _LEAST_WEIGHT)[..., None]).mT @ exact
    return leverages(v, gram + torch.eye(v.shape[-1], device=v.device))


def _first(span: Span, sinks: int) -> int:
    """The first position of a span that is no sink."""
    return min(max(sinks, span.start), span.stop)


def _rotation(layer: Layer, rule: str) -> Rotation:
    if layer.rotation is None:
        raise UsageError(
            f"{rule} needs to know how the model rotates its queries, and this model's rotation is not known"
        )
    return layer.rotation
