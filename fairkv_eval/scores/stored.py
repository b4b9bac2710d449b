"""Rules that look at statistics of the model, measured beforehand (see `fairkv_eval.eviction.statistics`)."""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span
from fairkv_eval.scores.expected import expected


def qfilter(layer: Layer, span: Span) -> Tensor:
    """How far the key points the way the model's queries do: its product with the head's filter (arXiv 2503.02812)."""
    keys = layer.k[:, span.start : span.stop].float()
    return (keys @ layer.statistics["filters"][:, :, None])[:, :, 0]


def expected_attention_stats(layer: Layer, span: Span, *, sinks: int, horizon: int) -> Tensor:
    """`expected_attention` with the mean and covariance that the model's queries have on a text, in the place of those
    of the span's queries (arXiv 2510.00636)."""
    return expected(layer, span, layer.statistics["mean"], layer.statistics["covariance"], sinks, horizon)


def duo_attention(layer: Layer, span: Span, *, sparsity: float, sinks: int, recent: int) -> Tensor:
    """Recency, 0 or more for what a head keeps: everything, or if it streams, the context's first ``sinks`` tokens and
    its last ``recent`` (arXiv 2410.10819).

    The part ``sparsity`` of the model's KV heads streams, those with the lowest ``retrieval``.
    """
    n, device = layer.k.shape[1], layer.k.device
    positions = torch.arange(span.start, span.stop, device=device)
    first = torch.where(_streams(layer, sparsity).to(device), n - recent, 0)  # [kv_heads]
    return (positions - first[:, None]).float().masked_fill(positions < sinks, PROTECTED)


def _streams(layer: Layer, sparsity: float) -> Tensor:
    """Which heads of a layer stream: boolean ``[kv_heads]``. Of equals the first do."""
    retrieval = layer.model_statistics["retrieval"]
    ranks = retrieval.flatten().argsort(stable=True).argsort().view_as(retrieval)
    return ranks[layer.index] < round(retrieval.numel() * sparsity)
