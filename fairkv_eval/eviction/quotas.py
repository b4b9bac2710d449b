"""Scores to kept positions: quotas, whitelists and the top of the scores. One rule for plain and fair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Span
from fairkv_eval.eviction.must_stay import MustStay

NO_NUMBER = "a press must give a number for each position, got nan"

ScoreSpan = Callable[[Span], Tensor]  # a press's rule on one layer: a span to its scores [kv_heads, len(span)]

_ROUNDING = 1e-9  # by which two sums of the same shares may differ


def floor_of(total: int, share: float) -> int:
    """floor(total·share), immune to binary fractions: 100·(1−0.9) is 10."""
    return math.floor(total * share + 1e-6)


def n_kept(n: int, ratio: float) -> int:
    """KV pairs that survive of n: floor(n·(1−ratio)), at least 1."""
    return min(n, max(1, floor_of(n, 1 - ratio)))


def largest_remainder(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers that add up to ``total`` in proportion to ``weights``; ties go to the later one."""
    scale = total / sum(weights) if total else 0.0
    exact = [weight * scale for weight in weights]
    counts = [math.floor(share + _ROUNDING) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (round(exact[i] - counts[i], 9), i), reverse=True)
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return counts


def shares(lengths: Sequence[int], floors: Sequence[int], total: int) -> list[float]:
    """``total`` in proportion to the lengths of spans, none below its floor (its whitelisted tokens).

    A span whose share falls below its floor gets the floor; the others divide the rest in proportion.
    Needs sum(floors) <= total <= sum(lengths). No share exceeds its span's length.
    """
    fixed: set[int] = set()
    while True:
        free = sum(n for i, n in enumerate(lengths) if i not in fixed)
        scale = (total - sum(floors[i] for i in fixed)) / free if free else 0.0
        result = [floors[i] if i in fixed else n * scale for i, n in enumerate(lengths)]
        short = {i for i, share in enumerate(result) if share < floors[i] - _ROUNDING}
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


def choose(
    score: ScoreSpan, spans: Sequence[Span], budget: int, fair: float, must_stay: MustStay | None = None
) -> Tensor:
    """Kept positions of one layer, ascending: int64 ``[kv_heads, budget]``.

    ``spans`` cover the context. ``fair`` in [0, 1] moves each span's quota, head by head, from what the plain press
    keeps there to the span's proportional share. ``must_stay``: the whitelist, or None; it counts inside the budget.
    """
    n = spans[-1].stop
    if fair == 0:
        return plain_ranking(score, n, budget, must_stay)[:, :budget].sort(-1).values
    if fair == 1:
        proportional = _proportional(spans, budget, must_stay)
        rankings = _span_rankings(score, spans, proportional, must_stay)
        quotas = largest_remainder(proportional, budget)
        return torch.cat([r[:, :quota] for r, quota in zip(rankings, quotas, strict=True)], -1).sort(-1).values
    plain = plain_ranking(score, n, budget, must_stay)
    return torch.cat(choose_by_head(score, spans, [budget] * len(plain), fair, must_stay))


def choose_by_head(
    score: ScoreSpan, spans: Sequence[Span], budgets: Sequence[int], fair: float, must_stay: MustStay | None = None
) -> list[Tensor]:
    """Kept positions of one layer whose heads have different budgets, ascending: int64 ``[1, budgets[h]]`` per head.

    The press sets a head's budget, and fairness divides it: `fair` moves each span's quota from what the plain press
    keeps there in this head to the span's proportional share of this head's budget.
    """
    n, mean = spans[-1].stop, round(sum(budgets) / len(budgets))
    whole = Span(0, n, budget=mean, head_budgets=tuple(budgets))
    plain = rank(score(whole), whole, must_stay)
    if fair == 0:
        return [ranking[:budget].sort().values[None] for ranking, budget in zip(plain, budgets, strict=True)]
    rankings = _span_rankings(score, spans, _proportional(spans, mean, must_stay), must_stay, budgets)
    heads, on_host = [], plain.cpu()  # so that a device is asked once
    for head, budget in enumerate(budgets):
        positions = on_host[head, :budget]
        counts = [int(((positions >= s.start) & (positions < s.stop)).sum()) for s in spans]
        proportional = _proportional(spans, budget, must_stay)
        mixed = [(1 - fair) * count + fair * share for count, share in zip(counts, proportional, strict=True)]
        quotas = largest_remainder(mixed, budget)
        best = [ranking[head, :quota] for ranking, quota in zip(rankings, quotas, strict=True)]
        heads.append(torch.cat(best).sort().values[None])
    return heads


def pooled(worth: Tensor, total: int, floor: int) -> list[int]:
    """Budgets of lanes (heads of a layer, or of all layers) that share ``total`` pairs by the worth of their pairs.

    worth: ``[lanes, n]``, each lane's scores from the best down. Each lane first gets ``floor`` pairs, the rest go to
    the best of all lanes; among equals to the lane that has fewer so far. Needs lanes·floor <= total <= lanes·n.
    """
    lanes = len(worth)
    rest = total - lanes * floor
    rank_major = worth[:, floor:].T.flatten()  # a stable sort then serves equal scores in turn
    best = rank_major.argsort(descending=True, stable=True)[:rest]
    return [floor + count for count in torch.bincount(best % lanes, minlength=lanes).tolist()]


def rank(scores: Tensor, span: Span, must_stay: MustStay | None = None) -> Tensor:
    """Positions of a span from the most to the least worth keeping, by its scores: int64 ``[kv_heads, len(span)]``.

    Whitelisted positions come first, then higher scores; among equals the later position wins. ValueError unless there
    is one score per position. Whether all are numbers is for the caller to say (`numbers`): it takes a device's time.
    """
    if scores.shape[-1] != len(span):
        raise ValueError(f"a press must give a score for each of {len(span)} positions, got {tuple(scores.shape)}")
    order = len(span) - 1 - scores.float().flip(-1).argsort(dim=-1, descending=True, stable=True)
    if must_stay is not None:
        stays = must_stay.on(scores.device)[span.start : span.stop][order]
        order = order.gather(-1, stays.to(torch.int8).argsort(dim=-1, descending=True, stable=True))
    return order + span.start


def numbers(scores: Tensor) -> Tensor:
    """These scores; ValueError if one is no number."""
    if scores.isnan().any():
        raise ValueError(NO_NUMBER)
    return scores


def plain_ranking(score: ScoreSpan, n: int, budget: int, must_stay: MustStay | None) -> Tensor:
    """All positions of a context from the most to the least worth keeping, the context being one span: see `rank`."""
    whole = Span(0, n, budget=budget)
    return rank(score(whole), whole, must_stay)


def check_keep(whitelisted: int, n: int, budget: int, amount: str = "ratio") -> None:
    """Refuse a whitelist of more tokens than the budget, with the numbers a person needs to mend it. amount: the
    argument that sets the budget."""
    if whitelisted <= budget:
        return
    scale = 10 ** max(3, len(str(n)))  # digits enough to tell one token more from one less
    ratio = (n - whitelisted) * scale // n / scale
    fits = {"ratio": f"a ratio of at most {ratio:.12g}", "budget": f"a budget of at least {whitelisted}"}
    raise UsageError(
        f"keep holds {whitelisted} tokens, the budget of this context of {n} tokens is {budget}: "
        f"{fits.get(amount, f'a larger {amount}')} would fit"
    )


def _span_rankings(
    score: ScoreSpan,
    spans: Sequence[Span],
    proportional: Sequence[float],
    must_stay: MustStay | None,
    head_budgets: Sequence[int] = (),
) -> list[Tensor]:
    budgets = largest_remainder(proportional, round(sum(proportional)))
    by_head = [largest_remainder(_proportional(spans, budget, must_stay), budget) for budget in head_budgets]
    by_span = list(zip(*by_head, strict=True)) or [()] * len(spans)
    budgeted = [
        replace(span, budget=budget, head_budgets=heads)
        for span, budget, heads in zip(spans, budgets, by_span, strict=True)
    ]
    return [rank(score(span), span, must_stay) for span in budgeted]


def _proportional(spans: Sequence[Span], budget: int, must_stay: MustStay | None) -> list[float]:
    floors = [0 if must_stay is None else must_stay.within(span.start, span.stop) for span in spans]
    return shares([len(span) for span in spans], floors, budget)
