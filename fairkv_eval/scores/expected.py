"""Rules that look at the attention of queries to come."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import PROTECTED, Layer, Span


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
