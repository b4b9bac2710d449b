"""The least of several differences ("above all of them") and the greatest ("somewhere"), each with its test.

Both are exact: all of k differences are positive if each is (an intersection-union test, without correction), and one
of m is if the smallest of their p-values, times m, is small enough (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fairkv_eval.bootstrap import ENDS, Floats


@dataclass(frozen=True)
class Extreme:
    """A difference: estimate, interval, two-sided p-value, and its place among those that it was chosen from."""

    estimate: float
    low: float
    high: float
    p: float
    place: int = 0


def least(members: Sequence[Extreme]) -> Extreme:
    """The least of k differences. p: that all are positive or, if some are not, that one is negative."""
    place = min(range(len(members)), key=lambda i: members[i].estimate)
    negative = [member.p for member in members if member.estimate < 0]
    p = min(1.0, len(members) * min(negative)) if negative else max(member.p for member in members)
    return Extreme(members[place].estimate, min(m.low for m in members), min(m.high for m in members), p, place)


def greatest(members: Sequence[Extreme]) -> Extreme:
    """The greatest of m differences. p: that one is positive or, if none is, that all are negative."""
    place = max(range(len(members)), key=lambda i: members[i].estimate)
    positive = [member.p for member in members if member.estimate > 0]
    p = min(1.0, len(members) * min(positive)) if positive else max(member.p for member in members)
    return replace(members[place], low=max(m.low for m in members), high=max(m.high for m in members), p=p, place=place)


def ends(resampled: Floats, below: int = 1, above: int = 1) -> tuple[Floats, Floats]:
    """The ends of percentile intervals of columns ``[resamples, ...]``, the lower one corrected for ``below`` events in
    which it may fail, the upper one for ``above``."""
    tail = ENDS[0]
    return np.quantile(resampled, tail / below, axis=0), np.quantile(resampled, 1 - tail / above, axis=0)
