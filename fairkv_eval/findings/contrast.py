"""A measured number that a finding rests on, such as fair − plain: estimate, interval, p-value and spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairkv_eval.analysis.paired import difference
from fairkv_eval.bootstrap import Floats

ALL = "all"  # the mean over presses


@dataclass(frozen=True)
class Contrast:
    """``group``: a press, a size, or all. ``cells``: how many differences of cells it averages.

    ``expected``: the sign that the claim gives it; 0 for any. ``variance``: n times the squared standard error.
    ``differing``: documents that are not 0. ``degrees``: of freedom of its test. ``points``: whether it is a share, so
    that a margin in points means something. ``stake``: the full cache's value, which is all that can be lost.
    ``detail``: what it was made from, in words.
    """

    group: str
    task: str
    metric: str
    cells: int
    n: int
    estimate: float
    low: float
    high: float
    p: float
    variance: float
    differing: int
    expected: int = 0
    degrees: int = 1
    points: bool = True
    stake: float = math.inf
    detail: str = ""

    @property
    def measure(self) -> str:
        """What was measured, in words."""
        return f"{self.metric} of {self.task}"


def of_documents(
    values: Floats, group: str, task: str, metric: str, *, cells: int = 1, expected: int = 0, points: bool = True
) -> Contrast | None:
    """The contrast whose estimate is the mean of values ``[documents]``, those that are not NaN; None without any.

    Interval and p-value are those of `paired.difference`.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        return None
    test = difference(defined, np.zeros(len(defined)))
    variance = float(defined.var(ddof=1)) if len(defined) > 1 else np.nan
    differing = int((np.abs(defined) > 1e-12).sum())
    return Contrast(
        *(group, task, metric, cells, test.n, test.mean, test.low, test.high, test.p, variance, differing),
        expected=expected,
        points=points,
    )


def averaged(values: Sequence[Floats]) -> Floats:
    """The mean over cells, document by document; NaN for a document that lacks one."""
    mean: Floats = np.mean(np.stack(values), axis=0)
    return mean
