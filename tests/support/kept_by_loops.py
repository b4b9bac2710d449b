"""What a policy keeps of a context, in loops and fractions: budgets of layers and heads, quotas, the top of the scores.

Scores come from the presses' own rules (`scores_by_loops` has those in loops).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from exact_shares import largest_remainder_exactly, shares_exactly

from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.quotas import n_kept, ranges
from fairkv_eval.prompts.segments import Segment

Kept = list[list[list[int]]]  # ascending positions, of each layer and KV head


def kept(policy: Policy, layers: Sequence[Layer], segments: Sequence[Segment]) -> Kept:
    """Kept positions in layers of one context, all of which evict."""
    whitelisted = {p for s in segments if s.name in policy.keep for p in range(s.start, s.stop)}
    budgets = _budgets(policy, layers, whitelisted)
    return [
        _kept_of_layer(policy, layer, of_heads, segments, whitelisted)
        for layer, of_heads in zip(layers, budgets, strict=True)
    ]


def budget_of(policy: Policy, n: int) -> int:
    return min(n, policy.budget) if policy.budget is not None else n_kept(n, policy.ratio)


def _kept_of_layer(
    policy: Policy, layer: Layer, budgets: list[int], segments: Sequence[Segment], whitelisted: set[int]
) -> list[list[int]]:
    n, fair = layer.k.shape[1], Fraction(str(policy.fair))
    mean = round(sum(budgets) / len(budgets))
    by_head = tuple(budgets) if _competes(policy) else ()
    whole = Span(0, n, budget=mean, head_budgets=by_head)
    plain = [ranked(row, 0, whitelisted) for row in _scores(policy, layer, whole)]
    if not fair:
        return [sorted(order[:budget]) for order, budget in zip(plain, budgets, strict=True)]
    spans = ranges([s.start for s in segments], n)
    span_budgets = largest_remainder_exactly(_shares(spans, whitelisted, mean), mean)
    shares = [largest_remainder_exactly(_shares(spans, whitelisted, budget), budget) for budget in by_head]
    scores = [
        _scores(policy, layer, replace(s, budget=b, head_budgets=tuple(share[i] for share in shares)))
        for i, (s, b) in enumerate(zip(spans, span_budgets, strict=True))
    ]
    rows = []
    for head, budget in enumerate(budgets):
        counts = [sum(s.start <= p < s.stop for p in plain[head][:budget]) for s in spans]
        even = _shares(spans, whitelisted, budget)
        mixed = [(1 - fair) * count + fair * share for count, share in zip(counts, even, strict=True)]
        quotas = largest_remainder_exactly(mixed, budget) if budget else [0] * len(spans)
        best = [
            ranked(of_heads[head], span.start, whitelisted)[:quota]
            for of_heads, span, quota in zip(scores, spans, quotas, strict=True)
        ]
        rows.append(sorted(p for part in best for p in part))
    return rows


def _budgets(policy: Policy, layers: Sequence[Layer], whitelisted: set[int]) -> list[list[int]]:
    """Pairs of each layer and head."""
    assert policy.press is not None
    n, heads, parameters = layers[0].k.shape[1], layers[0].kv_heads, dict(policy.parameters)
    mean = budget_of(policy, n)
    names = {policy.press.name, policy.press.base.name if policy.press.base else ""}
    by_layer = [mean] * len(layers)
    if "pyramidkv" in names:
        floor = max(len(whitelisted), int(parameters["window"]))
        by_layer = pyramid(n, mean, len(layers), floor, parameters["beta"])
    even = [[budget] * heads for budget in by_layer]
    if not _competes(policy):
        return even
    lanes = [
        [[row[p] for p in ranked(row, 0, whitelisted)] for row in _scores(policy, layer, Span(0, n, budget=budget))]
        for layer, budget in zip(layers, by_layer, strict=True)
    ]
    if "kvzip" in names and not parameters["uniform"]:
        flat = compete([lane for layer in lanes for lane in layer], mean * heads * len(layers), len(whitelisted))
        return [flat[i : i + heads] for i in range(0, len(flat), heads)]
    least = Fraction(str(parameters.get("safeguard", 0)))
    floors = [max(len(whitelisted), math.floor(least * budget), 1 if least else 0) for budget in by_layer]
    totals = [budget * heads for budget in by_layer]
    return [compete(*of_layer) for of_layer in zip(lanes, totals, floors, strict=True)]


def _competes(policy: Policy) -> bool:
    """Whether heads compete for pairs."""
    assert policy.press is not None
    return policy.press.name in ("adakv", "kvzip") or bool(dict(policy.parameters).get("pooled"))


def compete(lanes: Sequence[Sequence[float]], total: int, floor: int) -> list[int]:
    """Pairs of lanes that hold scores from the best down: the floor, then one by one the best that is left; among
    equals that of the lane with fewer so far, then of the earlier one."""
    counts = [floor] * len(lanes)
    while sum(counts) < total:
        free = [i for i, lane in enumerate(lanes) if counts[i] < len(lane)]
        counts[max(free, key=lambda i: (lanes[i][counts[i]], -counts[i], -i))] += 1
    return counts


def pyramid(n: int, mean: int, layers: int, floor: int, beta: float) -> list[int]:
    """The progression, moved as a whole until it makes the total inside its bounds."""
    if layers == 1:
        return [mean]
    last = mean / Fraction(str(beta))
    first = 2 * mean - last
    wanted = [first - i * (first - last) / (layers - 1) for i in range(layers)]
    low, high, total = min(mean, max(floor, 1)), n, mean * layers

    def bounded(by: Fraction) -> list[Fraction]:
        return [min(max(w + by, Fraction(low)), Fraction(high)) for w in wanted]

    by = max(e for e in (bound - w for w in wanted for bound in (low, high)) if sum(bounded(e)) <= total)
    moving = sum(low <= w + by < high for w in wanted)
    if moving:
        by += Fraction(total - sum(bounded(by)), moving)
    return largest_remainder(bounded(by), total)


def _shares(spans: Sequence[Span], whitelisted: set[int], total: int) -> list[Fraction]:
    """Proportional to length, no span below its whitelisted tokens."""
    floors = [sum(p in whitelisted for p in range(span.start, span.stop)) for span in spans]
    return shares_exactly([len(span) for span in spans], floors, total)


def largest_remainder(wanted: Sequence[Fraction], total: int) -> list[int]:
    """Rounded down; what is missing goes to the largest remainders, and among equals to the last."""
    counts = [math.floor(x) for x in wanted]
    while sum(counts) < total:
        counts[max(range(len(wanted)), key=lambda i: (wanted[i] - counts[i], i))] += 1
    return counts


def ranked(scores: Sequence[float], start: int, whitelisted: set[int]) -> list[int]:
    """Positions from ``start`` on, whitelisted ones first, then by score; among equals the later."""
    places = range(start, start + len(scores))
    return sorted(places, key=lambda p: (p in whitelisted, scores[p - start], p), reverse=True)


def _scores(policy: Policy, layer: Layer, span: Span) -> Any:
    return policy.scorer(layer)(span).tolist()
