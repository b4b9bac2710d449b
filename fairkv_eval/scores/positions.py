"""Rules that look at positions alone, and the control that looks at nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span


def streaming_llm(layer: Layer, span: Span, *, sinks: int) -> Tensor:
    """Recency, with the context's first ``sinks`` tokens protected (arXiv 2309.17453)."""
    positions = torch.arange(span.start, span.stop, device=layer.k.device)
    recency = positions.float().masked_fill(positions < sinks, PROTECTED)
    return recency.expand(layer.kv_heads, -1)


def random(layer: Layer, span: Span, *, seed: int) -> Tensor:
    """Uniform noise, the control: a function of the seed, the context's tokens, the layer and the position."""
    generator = torch.Generator().manual_seed(hash((seed, layer.seed, layer.index)) & (2**63 - 1))
    noise = torch.rand(layer.k.shape[1], layer.kv_heads, generator=generator)
    return noise[span.start : span.stop].T.to(layer.k.device)
