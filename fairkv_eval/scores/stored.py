"""Rules that look at statistics of the model, measured beforehand (see `fairkv_eval.eviction.statistics`)."""

from __future__ import annotations

from torch import Tensor

from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.scores.expected import expected


def qfilter(layer: Layer, span: Span) -> Tensor:
    """How far the key points the way the model's queries do: its product with the head's filter (arXiv 2503.02812)."""
    keys = layer.k[:, span.start : span.stop].float()
    return (keys @ layer.statistics["filters"][:, :, None])[:, :, 0]


def expected_attention_stats(layer: Layer, span: Span, *, sinks: int, horizon: int) -> Tensor:
    """`expected_attention` with the mean and covariance that the model's queries have on a text, in the place of those
    of the span's queries (arXiv 2510.00636)."""
    return expected(layer, span, layer.statistics["mean"], layer.statistics["covariance"], sinks, horizon)
