"""Shares of a budget in exact fractions, the slow reference of quotas."""

from __future__ import annotations

import math
from fractions import Fraction


def largest_remainder_exactly(weights: list[Fraction], total: int) -> list[int]:
    shares = [w * total / sum(weights) if total else Fraction(0) for w in weights]
    counts = [math.floor(share) for share in shares]
    while sum(counts) < total:
        best = max(range(len(shares)), key=lambda i: (shares[i] - counts[i], i))
        counts[best] += 1
    return counts


def shares_exactly(lengths: list[int], floors: list[int], total: int) -> list[Fraction]:
    """A span whose share is below its floor gets the floor and steps aside; the rest share again."""
    result = [Fraction(0)] * len(lengths)
    rest = list(range(len(lengths)))
    while rest:
        proportional = {i: Fraction(lengths[i] * total, sum(lengths[j] for j in rest)) for i in rest}
        short = [i for i in rest if proportional[i] < floors[i]]
        for i in rest:
            result[i] = Fraction(floors[i]) if i in short else proportional[i]
        if not short:
            break
        total -= sum(floors[i] for i in short)
        rest = [i for i in rest if i not in short]
    return result
