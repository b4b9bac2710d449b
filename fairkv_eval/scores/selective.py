"""Rules whose scores decide how much is kept: what they score below a value is evicted, whatever the ratio."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span


def simlayerkv(layer: Layer, span: Span, *, threshold: float, sinks: int, recent: int, last: int) -> Tensor:
    """Recency, 0 or more for what a layer keeps: everything, or if it is lazy, the context's first ``sinks`` tokens and
    its last ``recent − last`` (arXiv 2410.13846).

    A layer is lazy if its last ``last`` queries give more than ``threshold`` of their attention to the first ``sinks``
    and the last ``recent`` tokens before them, averaged over queries and heads. None is at a threshold of 1, or in a
    context of at most ``sinks + recent + last`` tokens.
    """
    n = layer.k.shape[1]
    positions = torch.arange(span.start, span.stop, device=layer.k.device)
    lazy = n > sinks + recent + last and threshold < 1 and _nearby(layer, sinks, recent, last) > threshold
    first = n - max(recent - last, 0) if lazy else 0
    return (positions - first).float().masked_fill(positions < sinks, PROTECTED).expand(layer.kv_heads, -1)


def _nearby(layer: Layer, sinks: int, recent: int, last: int) -> float:
    """Attention of the last queries to the first tokens and to the most recent ones before them, on average."""
    n = layer.k.shape[1]
    received = layer.attention(n - last, n).mean((0, 1))[: n - last]
    return float(received[:sinks].sum() + received[-recent:].sum())


def threshold(layer: Layer, span: Span, base: Callable[[Span], Tensor], *, protect: int) -> Tensor:
    """What the base scores; the context's last ``protect`` tokens are protected (arXiv 2506.05345)."""
    positions = torch.arange(span.start, span.stop, device=layer.k.device)
    return base(span).masked_fill(positions >= layer.k.shape[1] - protect, PROTECTED)
