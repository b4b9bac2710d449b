"""Scoring rules for the pairs in the cache while decoding, where they differ from those for a context.

``layer.k`` and ``layer.v`` ``[kv_heads, m, dim]`` are what a row holds, ``layer.q`` ``[heads, 1, dim]`` is its last
query, and the span is all of it. Rules that look at keys or at their order alone are those of `scores`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.layer import PROTECTED, Layer, Span, attention_weights


def tova(layer: Layer, span: Span) -> Tensor:
    """Attention of the last query, averaged over all query heads; its own pair is protected (arXiv 2401.06104)."""
    weights = attention_weights(layer.q, layer.k, layer.scaling, layer.softcap)[:, 0].mean(0)
    weights[-1] = PROTECTED
    return weights.expand(layer.kv_heads, -1)


def h2o(layer: Layer, span: Span, *, recent: float) -> Tensor:
    """Attention a key has received so far, divided by the number of queries that saw it (arXiv 2306.14048)."""
    assert layer.received is not None
    newest = torch.arange(len(span), device=layer.k.device) >= len(span) - int(recent * span.budget + 1e-6)
    return layer.received.masked_fill(newest, PROTECTED)
