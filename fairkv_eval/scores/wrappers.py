"""Rules that look at the scores of another press, and at what they add to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span, block_rows
from fairkv_eval.eviction.quotas import floor_of, numbers, rank


def chunkkv(layer: Layer, span: Span, base: Callable[[Span], Tensor], *, chunk: int) -> Tensor:
    """Runs of ``chunk`` tokens by their mean base score over tokens and heads, whole runs first (arXiv 2502.00299).

    A position's score is the number of the span's positions that are worth less: those of worse runs, and in its own
    run those of lower base score (mean over the heads); later runs and later positions win ties. So the one run that a
    budget cuts loses its worst tokens, and all heads keep the same. A pair that the base protects stays protected, and
    counts in the means as one more than the highest other score.
    """
    scores = base(span).float()
    protected = scores == PROTECTED
    top = scores.masked_fill(protected, float("-inf")).max() + 1
    # In float64 the mean of equal scores is that score, however long the run, and ties are ties.
    worth = scores.where(~protected, top).double().mean(0)
    chunk = min(chunk, len(span))
    runs = F.pad(worth, (0, -len(span) % chunk), value=float("nan")).view(-1, chunk).nanmean(-1)
    place = runs.argsort(stable=True).argsort()  # of each run, the worst first
    order = worth.argsort(stable=True)
    order = order[place[order // chunk].argsort(stable=True)]
    return torch.where(protected | scores.isnan(), scores, order.argsort().float())


def criticalkv(
    layer: Layer,
    span: Span,
    base: Callable[[Span], Tensor],
    *,
    first: float,
    epsilon: float,
    pooled: bool,
    safeguard: float,
) -> Tensor:
    """The part ``first`` of a head's budget by the base, the rest by (base + epsilon) times the size of what the value
    adds to the layer's output (arXiv 2502.03805).

    That size is the sum of the absolute numbers in v·W, W being the part of the output projection that belongs to the
    query head, averaged over the query heads of a KV head. What the base chooses is protected. Scores of a base that
    are negative are taken as distances from the lowest one: of two equal ones the larger output must win.

    ``pooled``: the heads of a layer compete by the base's scores, so these are returned until their budgets are known,
    and the base chooses at least the part ``safeguard`` of an even share. UsageError if the layer's output projection
    is not known.
    """
    scores = base(span).float()
    if pooled and not span.head_budgets:
        return scores
    budgets = span.head_budgets or [span.budget] * len(scores)
    guarded = floor_of(span.budget, safeguard) if pooled else 0
    chosen = torch.tensor([max(floor_of(budget, first), guarded) for budget in budgets], device=scores.device)
    place = (rank(numbers(scores), span) - span.start).argsort(-1)  # of each pair, the best first
    protected = (scores == PROTECTED) | (place < chosen[:, None])
    lowest = scores.masked_fill(protected, 0).amin(-1, keepdim=True).clamp(max=0)
    return ((scores - lowest + epsilon) * _output_sizes(layer, span)).masked_fill(protected, PROTECTED)


def _output_sizes(layer: Layer, span: Span) -> Tensor:
    """L1 norms of what values become in the layer's output, averaged over a group: ``[kv_heads, len(span)]``."""
    if layer.output is None:
        raise ValueError("criticalkv looks at the output projection of a layer, and this layer was made without")
    values = layer.v[:, span.start : span.stop].float()[:, None]  # [kv_heads, 1, len(span), dim]
    weight = layer.output.by_head(len(layer.q), values.shape[-1], values.device).unflatten(0, (layer.kv_heads, -1))
    rows = block_rows(len(layer.q), weight.shape[-1])
    sizes = [(part @ weight).abs().sum(-1).mean(1) for part in values.split(rows, 2)]
    return torch.cat(sizes, -1)
