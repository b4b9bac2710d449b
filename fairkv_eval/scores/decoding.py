"""Rules for the pairs in the cache while an answer is decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span, attention_weights
from fairkv_eval.eviction.quotas import floor_of


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
