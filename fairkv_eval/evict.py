"""Scores to kept indices: budgets, quotas, whitelists and the top of the scores. One rule for plain and fair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.scores import Span

Score = Callable[[Span], Tensor]


def n_kept(n: int, ratio: float) -> int:
    """KV pairs that survive of n: floor(n·(1−ratio)), immune to binary fractions (100·(1−0.9) is 10), at least 1."""
    return min(n, max(1, math.floor(n * (1 - ratio) + 1e-6)))


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to ``total`` in proportion to ``weights``; ties go to the later one."""
    scale = total / sum(weights) if total else 0.0
    shares = [weight * scale for weight in weights]
    counts = [math.floor(share + 1e-9) for share in shares]
    remainder = sorted(range(len(shares)), key=lambda i: (round(shares[i] - counts[i], 9), i), reverse=True)
    for i in remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def shares(lengths: Sequence[int], floors: Sequence[int], total: int) -> list[float]:
    """``total`` in proportion to the lengths of spans, none below its floor (its whitelisted tokens).

    A span whose share falls below its floor gets the floor; the others share what is left in proportion.
    Needs sum(floors) <= total <= sum(lengths). No share exceeds its span's length.
    """
    fixed: set[int] = set()
    while True:
        free = sum(n for i, n in enumerate(lengths) if i not in fixed)
        scale = (total - sum(floors[i] for i in fixed)) / free if free else 0.0
        result = [floors[i] if i in fixed else n * scale for i, n in enumerate(lengths)]
        short = {i for i, share in enumerate(result) if share < floors[i] - 1e-9}
        if not short:
            return result
        fixed |= short


def ranges(starts: Sequence[int], n: int) -> list[Span]:
    """Spans that cover a context of n tokens: each begins where its segment does and ends where the next begins.

    The first also owns everything before it, the last everything after, so template tokens belong to a neighbour.
    """
    edges = [0, *sorted(starts)[1:], n]
    pairs = [(a, b) for a, b in pairwise(edges) if b > a]
    return [Span(a, b, i, len(pairs)) for i, (a, b) in enumerate(pairs)]


def kept(score: Score, spans: Sequence[Span], budget: int, fair: float, keep: Tensor | None) -> Tensor:
    """Kept positions of one layer, ascending: int64 ``[kv_heads, budget]``.

    ``spans`` cover the context. ``fair`` in [0, 1] moves each span's quota from what the plain press keeps there,
    head by head, to its proportional share. ``keep`` is a boolean ``[n]`` of whitelisted positions, counted inside the
    budget, or None.
    """
    n = spans[-1].stop
    if fair == 0:
        whole = Span(0, n)
        ranking = _ranking(score(whole), whole, keep)
        return ranking[:, :budget].sort(-1).values
    floors = [0 if keep is None else int(keep[span.start : span.stop].sum()) for span in spans]
    proportional = shares([len(span) for span in spans], floors, budget)
    rankings = [_ranking(score(span), span, keep) for span in spans]
    if fair == 1:
        quota = largest_remainder(proportional, budget)
        return torch.cat([r[:, :q] for r, q in zip(rankings, quota, strict=True)], -1).sort(-1).values
    plain = kept(score, spans, budget, 0, keep)
    rows = []
    for head, positions in enumerate(plain):
        counts = [int(((positions >= s.start) & (positions < s.stop)).sum()) for s in spans]
        mixed = [(1 - fair) * count + fair * share for count, share in zip(counts, proportional, strict=True)]
        quota = largest_remainder(mixed, budget)
        rows.append(torch.cat([r[head, :q] for r, q in zip(rankings, quota, strict=True)]).sort().values)
    return torch.stack(rows)


def check_keep(whitelisted: int, n: int, budget: int) -> None:
    """Refuse a whitelist that does not fit its budget, with the numbers a person needs to mend it."""
    if whitelisted > budget:
        scale = 10 ** max(3, len(str(n)))  # digits enough to tell one token more from one less
        ratio = (n - whitelisted) * scale // n / scale
        raise UsageError(
            f"keep holds {whitelisted} tokens, the budget of this context of {n} tokens is {budget}: "
            f"a ratio of at most {ratio:.12g} would fit"
        )


def _ranking(scores: Tensor, span: Span, keep: Tensor | None) -> Tensor:
    """Positions of a span from the most to the least worth keeping: ``[kv_heads, len(span)]``.

    Whitelisted positions come first, then higher scores; among equals the later position wins.
    """
    if scores.shape[-1] != len(span) or scores.isnan().any():
        raise ValueError(f"a press must give one number for each of {len(span)} positions, got {tuple(scores.shape)}")
    order = len(span) - 1 - scores.float().flip(-1).argsort(dim=-1, descending=True, stable=True)
    if keep is not None:
        listed = keep[span.start : span.stop][order]
        order = order.gather(-1, listed.to(torch.int8).argsort(dim=-1, descending=True, stable=True))
    return order + span.start
