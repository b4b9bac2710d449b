"""A press applied block after block, to what it has kept so far and the next block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.quotas import numbers, rank


def blockwise(layer: Layer, span: Span, base: Callable[[Span, Layer], Tensor], *, block_size: int) -> Tensor:
    """The number of the span's pairs that were evicted before, or with a lower score, if the span comes in blocks
    (arXiv 2504.15364, its block prompt processing).

    The first tokens, as many as the span's budget, are kept. Then the base scores what is left and the next
    ``block_size`` tokens, as if nothing else of the span were there, and the best stay, head by head. Queries, keys and
    values are those of an uncompressed prefill.
    """
    n, budget = len(span), max(span.budget, 1)
    if n <= budget:
        return base(span, layer)
    heads, device = layer.kv_heads, layer.k.device
    kept = torch.arange(budget, device=device).expand(heads, -1)  # places in the span
    worth = torch.empty(heads, n, device=device)
    evicted = 0
    for start in range(budget, n, block_size):
        added = torch.arange(start, min(start + block_size, n), device=device)
        places = torch.cat([kept, added.expand(heads, -1)], 1)
        of_places = Span(span.start, span.start + places.shape[1], span.index, span.count, budget)
        scores = base(of_places, without_others(layer, span.start, places + span.start))
        order = places.gather(1, rank(numbers(scores), of_places) - span.start)
        worst_first = order[:, budget:].flip(1)
        worth.scatter_(
            1, worst_first, torch.arange(evicted, evicted + len(added), device=device).expand(heads, -1) * 1.0
        )
        evicted += len(added)
        kept = order[:, :budget].sort(-1).values
    last = order[:, :budget].flip(1)
    return worth.scatter_(1, last, torch.arange(evicted, n, device=device).expand(heads, -1) * 1.0)


def without_others(layer: Layer, n: int, positions: Tensor) -> Layer:
    """The layer of a cache that holds only its first n pairs and those at ``positions`` ``[kv_heads, m]``, ascending.

    Its queries are those of the same tokens, head by head. How it turned them by position is not known any more.
    """
    heads = layer.kv_heads
    before = torch.arange(n, device=positions.device).expand(heads, -1)
    at = torch.cat([before, positions], 1)
    q = _pick(layer.q, at.repeat_interleave(layer.q.shape[0] // heads, 0))
    return replace(layer, q=q, k=_pick(layer.k, at), v=_pick(layer.v, at), rotation=None)


def _pick(states: Tensor, at: Tensor) -> Tensor:
    return states.gather(1, at[:, :, None].expand(-1, -1, states.shape[2]))
