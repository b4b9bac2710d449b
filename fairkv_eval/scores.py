"""Scoring rules: how much each KV pair of a span is worth. Larger is kept.

A rule is a pure function ``rule(layer, span, **parameters) -> Tensor[kv_heads, len(span)]`` in float32. It sees one
layer of one context and one span of it: the whole context when eviction is plain, one segment when it is fair.
A score of ``+inf`` protects a pair: it is kept before any other, the latest first where the budget is short of them.

Notation: a layer holds q ``[heads, n, dim]`` and k, v ``[kv_heads, n, dim]`` after RoPE, and
``A = causal softmax(q·kᵀ·scaling)`` over all keys a query sees, those outside the span included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.layer import PROTECTED, Layer, Span


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


def h2o(layer: Layer, span: Span) -> Tensor:
    """Attention a key collects from the span's queries, divided by their number (arXiv 2306.14048)."""
    total = torch.zeros(layer.q.shape[0], len(span), device=layer.k.device)
    for weights in layer.attention_blocks(span.start, span.stop):
        columns = weights[:, :, span.start :].sum(1)
        total[:, : columns.shape[1]] += columns
    observers = torch.arange(len(span), 0, -1, device=layer.k.device)
    return layer.per_kv_head(total / observers)


def tova(layer: Layer, span: Span) -> Tensor:
    """Attention of the span's last query, averaged over all query heads: one ranking for all (arXiv 2401.06104)."""
    weights = layer.attention(span.stop - 1, span.stop)[:, 0, span.start :].mean(0)
    weights[-1] = PROTECTED
    return weights.expand(layer.kv_heads, -1)


def knorm(layer: Layer, span: Span) -> Tensor:
    """Minus the Euclidean norm of the key (arXiv 2406.11430)."""
    return -layer.k[:, span.start : span.stop].float().norm(dim=-1)


def random(layer: Layer, span: Span, *, seed: int) -> Tensor:
    """Uniform noise, the control: a function of the seed, the context's tokens, the layer and the position."""
    generator = torch.Generator().manual_seed(hash((seed, layer.seed, layer.index)) & (2**63 - 1))
    noise = torch.rand(layer.k.shape[1], layer.kv_heads, generator=generator)
    return noise[span.start : span.stop].T.to(layer.k.device)
