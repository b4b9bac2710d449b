"""Rules that look at the scores of another press, and at what they add to it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.eviction.layer import PROTECTED, Layer, Span


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
