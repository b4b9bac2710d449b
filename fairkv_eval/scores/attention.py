"""Rules that look at the attention of queries of the context."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span, block_rows
from fairkv_eval.eviction.quotas import floor_of


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


def noncausal_attention(layer: Layer, span: Span, *, block: int) -> Tensor:
    """Attention a key gets from all queries of its block of tokens, the later ones and the earlier ones, times the norm
    of its value, and the mean of this over the pair and its two neighbors (arXiv 2507.08143).

    Blocks follow one another from the span's start; the last may be shorter. The logits are q·k, without the model's
    scaling and softcap, as published.
    """
    edges = range(span.start, span.stop, block)
    received = torch.cat([_received_in(layer, start, min(start + block, span.stop)) for start in edges], 1)
    norms = layer.v[:, span.start : span.stop].float().norm(dim=-1)
    return F.avg_pool1d(layer.per_kv_head(received) * norms, 3, stride=1, padding=1)


def _received_in(layer: Layer, start: int, stop: int) -> Tensor:
    """Sums over the queries of a block of their attention among its keys: ``[heads, stop - start]``."""
    keys = layer.k[:, start:stop].float().mT[:, None]  # [kv_heads, 1, dim, stop - start]
    queries = layer.q[:, start:stop].unflatten(0, (layer.kv_heads, -1))
    total = torch.zeros(layer.q.shape[0], stop - start, device=layer.k.device)
    for part in queries.split(block_rows(len(total), stop - start), 2):
        total += (part.float() @ keys).softmax(-1).sum(-2).flatten(0, 1)
    return total
