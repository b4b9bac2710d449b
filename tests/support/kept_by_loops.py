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
    budgets = budgets_by_head(policy, layers, whitelisted)
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
    mean = round(sum(budgets) / len(budgets)) if policy.division.least is None else n
    by_head = tuple(budgets) if _competes(policy) else ()
    whole = Span(0, n, budget=mean, head_budgets=by_head)
    plain = [ranked(row, 0, whitelisted) for row in _scores(policy, layer, whole)]
    if not fair:
        return [sorted(order[:budget]) for order, budget in zip(plain, budgets, strict=True)]
    spans = ranges([s.start for s in segments], n)
    span_budgets = largest_remainder_exactly(_shares(spans, whitelisted, mean), mean)
    if policy.division.least is not None:
        span_budgets = [len(span) for span in spans]  # no budget is known before the scores are
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


def budgets_by_head(policy: Policy, layers: Sequence[Layer], whitelisted: set[int]) -> list[list[int]]:
    """Pairs of each layer and head."""
    assert policy.press is not None
    n, heads, parameters = layers[0].k.shape[1], layers[0].kv_heads, dict(policy.parameters)
    names = {policy.press.name, policy.press.base.name if policy.press.base else ""}
    if "layer_ratios" in names:
        return [[n_kept(n, float(ratio))] * heads for ratio in str(parameters["by_layer"]).split("+")]
    own = {"simlayerkv": simlayerkv, "threshold": threshold, "duo_attention": duo_attention}
    if named := names & own.keys():
        of_layer = own[named.pop()]
        return [[len(kept | whitelisted) for kept in of_layer(policy, layer, parameters)] for layer in layers]
    mean = budget_of(policy, n)
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
    if "zigzagkv" in names:
        return [
            [b] * heads for b in zigzagkv(lanes, mean, n, len(whitelisted), parameters["share"], parameters["bound"])
        ]
    if parameters.get("structured"):
        return [[b] * heads for b in kvcompose(lanes, mean, len(whitelisted))]
    if "kvcompose" in names or ("kvzip" in names and not parameters["uniform"]):
        flat = compete([lane for layer in lanes for lane in layer], mean * heads * len(layers), len(whitelisted))
        return [flat[i : i + heads] for i in range(0, len(flat), heads)]
    least = Fraction(str(parameters.get("safeguard", 0)))
    floors = [max(len(whitelisted), math.floor(least * budget), 1 if least else 0) for budget in by_layer]
    totals = [budget * heads for budget in by_layer]
    return [compete(*of_layer) for of_layer in zip(lanes, totals, floors, strict=True)]


def _competes(policy: Policy) -> bool:
    """Whether heads compete for pairs."""
    assert policy.press is not None
    return policy.press.name in ("adakv", "kvzip", "kvcompose", "zigzagkv") or bool(
        dict(policy.parameters).get("pooled")
    )


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
    return moved(wanted, min(mean, max(floor, 1)), n, mean * layers)


def zigzagkv(
    lanes: Sequence[Sequence[Sequence[float]]], mean: int, n: int, floor: int, share: float, bound: float
) -> list[int]:
    """Of each layer: a part of the mean, and of the rest as much as its number of pairs that hold the share."""
    counts = []
    for heads in lanes:
        for scores in heads:
            mass = sorted((max(x, 0.0) for x in scores if math.isfinite(x)), reverse=True)
            total, held, count = sum(mass), 0.0, 0
            while count == 0 or (count < n and held < total * share):
                held += mass[count] if count < len(mass) else 0.0
                count += 1
            counts.append(count)
    of_layers = [Fraction(sum(counts[i : i + len(heads)]), len(heads)) for i, heads in _starts(lanes)]
    low = mean * Fraction(str(bound))
    wanted = [low + (mean - low) * len(lanes) * count / sum(of_layers) for count in of_layers]
    return moved(wanted, max(floor, 1), n, mean * len(lanes))


def _starts(lanes: Sequence[Sequence[Sequence[float]]]) -> list[tuple[int, Sequence[Sequence[float]]]]:
    return [(sum(map(len, lanes[:i])), heads) for i, heads in enumerate(lanes)]


def kvcompose(lanes: Sequence[Sequence[Sequence[float]]], mean: int, floor: int) -> list[int]:
    """The i-th best pairs of a layer's heads as one, worth their mean; the first layer's as much as any layer's."""
    composites = [[sum(ranks) / len(ranks) for ranks in zip(*heads, strict=True)] for heads in lanes]
    composites[0] = [max(ranks) for ranks in zip(*composites, strict=True)]
    return compete(composites, mean * len(lanes), floor)


def threshold(policy: Policy, layer: Layer, parameters: dict[str, Any]) -> list[set[int]]:
    """Positions of each head that score as much, or are among the last."""
    n = layer.k.shape[1]
    rows = policy.scorer(layer)(Span(0, n, budget=n)).tolist()
    least, first = parameters["threshold"], n - parameters["protect"]
    return [{p for p in range(n) if row[p] >= least or p >= first} for row in rows]


def duo_attention(policy: Policy, layer: Layer, parameters: dict[str, Any]) -> list[set[int]]:
    """Everything, or of a head that is among the model's least retrieving ones the sinks and the recent tokens."""
    assert policy.press is not None and policy.press.known_statistics is not None
    retrieval = policy.press.known_statistics.of_all(layer)["retrieval"].tolist()
    heads = sorted((worth, place, head) for place, row in enumerate(retrieval) for head, worth in enumerate(row))
    streaming = {(place, head) for _, place, head in heads[: round(len(heads) * parameters["sparsity"])]}
    n = layer.k.shape[1]
    near = {p for p in range(n) if p < parameters["sinks"] or p >= n - parameters["recent"]}
    return [near if (layer.index, head) in streaming else set(range(n)) for head in range(layer.kv_heads)]


def simlayerkv(policy: Policy, layer: Layer, parameters: dict[str, Any]) -> list[set[int]]:
    """Everything, or of a lazy layer the sinks and the recent tokens but for the place of the last queries."""
    n, (sinks, recent, last) = layer.k.shape[1], (parameters[key] for key in ("sinks", "recent", "last"))
    if n <= sinks + recent + last or parameters["threshold"] >= 1:
        return [set(range(n))] * layer.kv_heads
    counted = [j for j in range(n - last) if j < sinks] + [j for j in range(n - last) if j >= n - last - recent]
    near = [
        sum(weights[j] for j in counted)
        for head in range(layer.q.shape[0])
        for weights in (_weights(layer, head, i) for i in range(n - last, n))
    ]
    if sum(near) / len(near) <= parameters["threshold"]:
        return [set(range(n))] * layer.kv_heads
    return [{p for p in range(n) if p < sinks or p >= n - (recent - last)}] * layer.kv_heads


def _weights(layer: Layer, head: int, query: int) -> list[float]:
    """Attention of one query to the keys up to its own."""
    keys = layer.k[head * layer.kv_heads // layer.q.shape[0], : query + 1].double()
    logits = (keys @ layer.q[head, query].double() * layer.scaling).tolist()
    if layer.softcap is not None:
        logits = [layer.softcap * math.tanh(x / layer.softcap) for x in logits]
    exps = [math.exp(x - max(logits)) for x in logits]
    return [e / sum(exps) for e in exps]


def moved(wanted: Sequence[Fraction], low: int, high: int, total: int) -> list[int]:
    """All moved by one amount until, held within the bounds, they make the total."""

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
