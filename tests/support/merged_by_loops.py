"""What becomes of evicted pairs of one head, pair by pair, in float64: the slow reference of `merging`.

``keys`` and ``values`` are lists of vectors by position; ``kept`` positions; ``spans`` pairs of positions. Each rule
returns the keys and values of the kept positions, and how many evicted pairs were merged.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

Spans = Sequence[tuple[int, int]]


class Merged(NamedTuple):
    keys: list[Tensor]
    values: list[Tensor]
    count: int


def norm(vector: Tensor) -> float:
    return math.sqrt(sum(float(x) ** 2 for x in vector))


def cosine(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True)) / (max(norm(a), 1e-6) * max(norm(b), 1e-6))


def nearest(
    keys: Sequence[Tensor], kept: Sequence[int], spans: Spans, whitelisted: Collection[int]
) -> dict[int, tuple[float, int]]:
    """Similarity and position of the pair that each evicted one would be merged into, if there is one."""
    best = {}
    for a, b in spans:
        absorbing = [p for p in kept if a <= p < b and p not in whitelisted]
        for p in range(a, b):
            if p not in kept and absorbing:
                best[p] = max(((cosine(keys[p], keys[q]), q) for q in absorbing), key=lambda entry: entry[0])
    return best


def similar(
    keys: Sequence[Tensor], values: Sequence[Tensor], kept: Sequence[int], spans: Spans, whitelisted: Collection[int]
) -> Merged:
    weights = {}
    for p, (similarity, q) in nearest(keys, kept, spans, whitelisted).items():
        if similarity > 0:
            weights[p] = similarity * norm(values[p]) / (norm(values[p]) + norm(values[q]) + 1e-6), q
    return Merged([keys[q] for q in kept], averaged(values, kept, weights, 1.0), len(weights))


def d2o(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    kept: Sequence[int],
    spans: Spans,
    whitelisted: Collection[int],
    thresholds: list[float | None],
) -> Merged:
    """``thresholds`` by span: those of the eviction before, replaced by those of this one."""
    best, weights = nearest(keys, kept, spans, whitelisted), {}
    for i, (a, b) in enumerate(spans):
        inside = {p: entry for p, entry in best.items() if a <= p < b}
        if not inside:
            continue
        mean = sum(similarity for similarity, _ in inside.values()) / len(inside)
        before = thresholds[i]
        threshold = thresholds[i] = mean if before is None else 0.7 * mean + 0.3 * before
        weights |= {p: (math.exp(s), q) for p, (s, q) in inside.items() if s >= threshold - 1e-6}
    return Merged(averaged(keys, kept, weights, math.e), averaged(values, kept, weights, math.e), len(weights))


def cam(
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    kept: Sequence[int],
    whitelisted: Collection[int],
    attention: Sequence[float],
    noise: Mapping[int, float],
) -> Merged:
    """``noise`` of each evicted pair that may be merged."""
    result, count = {q: values[q].double() for q in kept}, 0
    for p, draw in noise.items():
        window = [q for q in kept if q > p and q not in whitelisted][:32]
        if not window or not attention[p]:
            continue
        mean = sum(attention[q] for q in window) / len(window)
        if mean == 0 or draw < attention[p] / mean:
            count += 1
            for q in window:
                result[q] = result[q] + values[p].double() / len(window)
    return Merged([keys[q] for q in kept], list(result.values()), count)


def averaged(
    states: Sequence[Tensor], kept: Sequence[int], weights: Mapping[int, tuple[float, int]], own_weight: float
) -> list[Tensor]:
    """Weighted means of each kept state and the evicted ones that go to it."""
    means = []
    for q in kept:
        parts = [(weight, states[p].double()) for p, (weight, target) in weights.items() if target == q]
        total = own_weight + sum(weight for weight, _ in parts)
        means.append(sum((weight * part for weight, part in parts), own_weight * states[q].double()) / total)
    return means
