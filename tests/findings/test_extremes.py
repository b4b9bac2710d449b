"""The least and the greatest of several differences: error rates by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fairkv_eval.findings.extremes import Extreme, ends, greatest, least


def normal(estimate: float) -> Extreme:
    """A difference with standard error 1."""
    return Extreme(estimate, estimate - 1.96, estimate + 1.96, math.erfc(abs(estimate) / math.sqrt(2)))


def test_the_least_is_positive_only_if_all_are():
    result = least([normal(5.0), normal(2.5), normal(9.0)])
    assert (result.estimate, result.place, result.p) == (2.5, 1, normal(2.5).p)
    assert result.low == 2.5 - 1.96 and result.high == 2.5 + 1.96
    assert least([normal(5.0), normal(-3.0)]).p == 2 * normal(-3.0).p  # that one is negative: two tries


def test_the_greatest_is_negative_only_if_all_are():
    result = greatest([normal(-5.0), normal(3.0), normal(1.0)])
    assert (result.estimate, result.place, result.p) == (3.0, 1, 3 * normal(3.0).p)
    assert greatest([normal(-5.0), normal(-3.0)]).p == normal(-3.0).p


def test_rates_of_error():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 4))
    some = [greatest([normal(x) for x in row]) for row in draws]
    assert np.mean([f.p < 0.05 and f.estimate > 0 for f in some]) <= 0.055
    # One at 0 and the others far above: the hardest case for "all are positive".
    every = [least([normal(row[0]), *(normal(x + 9) for x in row[1:])]) for row in draws]
    assert np.mean([f.p < 0.05 and f.estimate > 0 for f in every]) <= 0.055


def test_ends_are_quantiles_with_their_tails_divided():
    resampled = np.arange(1001.0)[:, None]
    assert [end.item() for end in ends(resampled)] == pytest.approx([25, 975])
    assert [end.item() for end in ends(resampled, below=5, above=2)] == pytest.approx([5, 987.5])
