"""Rules that add up what others look at."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span
from fairkv_eval.scores.attention import noncausal_attention
from fairkv_eval.scores.keys import leverage
from fairkv_eval.scores.linear_algebra import standardized


def compactor(
    layer: Layer, span: Span, *, sinks: int, recent: int, block: int, sketch: int, blend: float, by_ratio: bool
) -> Tensor:
    """`noncausal_attention` plus ``blend`` times `leverage`, each with mean 0 and deviation 1 over the heads and
    positions of the span (arXiv 2507.08143).

    ``by_ratio``: the blend is multiplied by the part of the span that is evicted, as in kvpress, since what stands out
    matters more if little is kept. The context's first ``sinks`` and last ``recent`` tokens are left out and protected.
    """
    first = min(max(sinks, span.start), span.stop)
    last = max(min(layer.k.shape[1] - recent, span.stop), first)
    if first == last:
        return torch.full((layer.kv_heads, len(span)), PROTECTED, device=layer.k.device)
    inner = replace(span, start=first, stop=last)
    weight = blend * (1 - span.budget / len(span)) if by_ratio else blend
    attention = standardized(noncausal_attention(layer, inner, block=block))
    scores = attention + weight * standardized(leverage(layer, inner, sketch=sketch))
    return F.pad(scores, (first - span.start, span.stop - last), value=PROTECTED)
