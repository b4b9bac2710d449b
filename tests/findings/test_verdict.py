"""The rule that judges a contrast, and the documents that would tell: against simulated tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fairkv_eval.analysis.paired import holm
from fairkv_eval.findings.contrast import Contrast, of_documents
from fairkv_eval.findings.finding import Claim, Finding
from fairkv_eval.findings.verdict import Goal, documents_needed, judged, noncentrality, verdict

GOAL = Goal()
PLAIN = Contrast("all", "task", "metric", 1, 400, 0.05, 0.01, 0.09, 0.01, 0.2, 80, expected=1)


@pytest.mark.parametrize(
    ("changed", "corrected", "wanted"),
    [
        ({}, 0.01, "appears"),
        ({"expected": -1}, 0.01, "opposite"),
        ({"expected": 0, "estimate": -0.05, "low": -0.09, "high": -0.01}, 0.01, "appears"),
        ({}, 0.06, "cannot be told"),  # many tests
        ({"low": -0.001}, 0.04, "cannot be told"),  # the interval holds 0
        ({"estimate": 0.0, "low": -0.019, "high": 0.019}, 1.0, "not seen"),
        ({"estimate": 0.0, "low": -0.021, "high": 0.019}, 1.0, "cannot be told"),
        ({"estimate": 0.0, "low": 0.0, "high": 0.0, "differing": 0, "n": 149}, 1.0, "cannot be told"),
        ({"estimate": 0.0, "low": 0.0, "high": 0.0, "differing": 0, "n": 150}, 1.0, "not seen"),
        ({"estimate": 0.0, "low": -0.001, "high": 0.001, "points": False}, 1.0, "cannot be told"),
        ({"n": 1, "low": np.nan, "high": np.nan, "p": 1.0}, 1.0, "cannot be told"),
    ],
)
def test_a_difference(changed, corrected, wanted):
    assert verdict(replace(PLAIN, **changed), corrected, "differs", GOAL) == wanted


@pytest.mark.parametrize(
    ("low", "high", "expected", "wanted"),
    [
        (-0.019, 0.01, 1, "appears"),
        (0.03, 0.05, 1, "appears"),  # even better
        (-0.021, 0.01, 1, "cannot be told"),
        (-0.09, -0.021, 1, "opposite"),
        (-0.01, 0.019, -1, "appears"),  # of a metric that is better if lower
        (0.021, 0.09, -1, "opposite"),
    ],
)
def test_little_loss(low, high, expected, wanted):
    row = replace(PLAIN, estimate=(low + high) / 2, low=low, high=high, expected=expected)
    assert verdict(row, 0.01, "keeps", GOAL) == wanted
    untested = "cannot be told" if wanted == "opposite" else wanted
    assert verdict(row, 0.06, "keeps", GOAL) == untested


def test_two_documents_show_no_loss():
    row = of_documents(np.array([-0.1, -0.067]), "all", "task", "metric", expected=1)
    assert row is not None and row.high < -GOAL.size
    assert verdict(row, row.p, "keeps", GOAL) == "cannot be told"


def test_whoever_follows_no_more_than_the_margin_has_nothing_to_lose():
    row = replace(PLAIN, estimate=0.0, low=-0.01, high=0.01)
    verdicts = {stake: verdict(replace(row, stake=stake), 1.0, "keeps", GOAL) for stake in (0.02, 0.03)}
    assert verdicts == {0.02: "cannot be told", 0.03: "appears"}
    (claim,) = judged(Finding("f", "f", "", (Claim("a", "", (replace(row, stake=0.02),), rule="keeps"),)), GOAL).claims
    assert claim.rows[0].needed is None  # no number of documents would tell


def test_a_small_sample_loses_nothing_for_sure():
    row = of_documents(np.zeros(20), "all", "task", "metric", expected=1)
    assert row is not None and verdict(row, 1.0, "keeps", GOAL) == "cannot be told"


def test_noncentrality_of_one_degree_is_that_of_the_normal_test():
    assert noncentrality(1, 0.8) == pytest.approx((1.959964 + 0.841621) ** 2, rel=1e-3)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_so_many_documents_find_a_true_difference(share):
    """Documents that differ in this share, by two points on average: as many as needed reject in about 80 %."""
    p = [(share + 0.02) / 2, (share - 0.02) / 2, 1 - share]
    rng = np.random.default_rng(0)
    pilot = of_documents(rng.choice([1.0, -1.0, 0.0], 20000, p=p), "all", "task", "metric")
    needed = documents_needed(pilot, GOAL)
    draws = rng.choice([1.0, -1.0, 0.0], (2000, needed), p=p)
    z = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(needed))
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)


def test_documents_without_any_difference():
    row = of_documents(np.zeros(50), "all", "task", "metric")
    assert documents_needed(row, GOAL) == pytest.approx(noncentrality(1, 0.8) / 50 / 0.02**2, abs=1)
    assert documents_needed(of_documents(np.zeros(10000), "all", "task", "metric"), GOAL) == 150  # the rule of three
    assert documents_needed(replace(PLAIN, points=False), GOAL) is None
    assert documents_needed(of_documents(np.ones(1), "all", "task", "metric"), GOAL) is None


def test_a_finding_is_as_its_weakest_claim_and_a_claim_as_its_first_row():
    no = replace(PLAIN, expected=-1)
    unclear = replace(PLAIN, p=0.9)
    missing = Claim("c", "cells", ())
    for claims, wanted in (
        ([Claim("a", "", (PLAIN, no))], "appears"),
        ([Claim("a", "", (PLAIN,)), Claim("b", "", (unclear,))], "cannot be told"),
        ([Claim("a", "", (PLAIN,)), missing], "cannot be told"),
        ([Claim("a", "", (unclear,)), Claim("b", "", (no,)), missing], "opposite"),
    ):
        assert judged(Finding("f", "f", "", tuple(claims)), GOAL).verdict == wanted


def test_p_values_are_corrected_over_measures_and_within_a_measure_over_presses():
    measures = tuple(replace(PLAIN, metric=name, p=p) for name, p in (("x", 0.01), ("y", 0.04)))
    presses = tuple(
        replace(PLAIN, metric=name, group=press, p=p)
        for name, press, p in (("x", "a", 0.01), ("x", "b", 0.02), ("x", "c", 0.5), ("y", "a", 0.03), ("y", "b", 0.03))
    )
    (claim,) = judged(Finding("f", "f", "", (Claim("a", "", measures, presses),)), GOAL).claims
    assert [row.corrected for row in claim.rows] == holm([0.01, 0.04])
    assert [row.corrected for row in claim.by_press] == [*holm([0.01, 0.02, 0.5]), *holm([0.03, 0.03])]
