"""Paired statistics against slow references, scipy's own tests and statsmodels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fairkv_eval.analysis.paired import Difference, Rank, difference, differences, holm, ranks, sign_flip
from fairkv_eval.errors import UsageError

SHARES = [i / k for k in (1, 3, 8) for i in range(k + 1)]


def all_signs(gaps) -> float:
    """The sign-flip test by going through all choices of signs."""
    sums = [
        abs(sum(s * g for s, g in zip(signs, gaps, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(gaps))
    ]
    return sum(s >= abs(sum(gaps)) - 1e-9 for s in sums) / len(sums)


def random_pair(seed: int, n: int = 60, values=SHARES):
    rng = np.random.default_rng(seed)
    return rng.choice(values, n), rng.choice(values, n)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(SHARES), st.sampled_from(SHARES)), min_size=1, max_size=9))
def test_p_of_shares_counts_all_signs(pairs):
    a, b = zip(*pairs, strict=True)
    gaps = [x - y for x, y in pairs]
    assert difference(a, b).p == pytest.approx(all_signs(gaps), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_p_of_other_values_is_that_of_scipy(seed):
    rng = np.random.default_rng(seed)
    gaps = rng.normal(0.1 * seed, 1, 12)  # few enough for scipy to go through all signs
    exact = stats.permutation_test((gaps,), np.mean, permutation_type="samples", n_resamples=2**13).pvalue
    assert sign_flip(gaps) == pytest.approx(exact, rel=0.05, abs=1e-3)


def test_p_of_0_and_1_is_the_exact_mcnemar_test():
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = random_pair(0, 200, (0, 1, 1))
    table = [[int(((a == x) & (b == y)).sum()) for y in (0, 1)] for x in (0, 1)]
    assert difference(a, b).p == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)


def test_very_small_p_values_are_told_apart():
    """A test by drawing 2,000 signs could not: none of its p-values would survive a correction for 1,000."""
    assert difference([1.0] * 100, [0.0] * 100).p == pytest.approx(2.0**-99)


def test_many_documents_take_the_normal_approximation_without_a_jump():
    gaps = np.random.default_rng(1).choice([-1.0, 1.0], 1000, p=[0.46, 0.54])
    assert sign_flip(np.append(gaps, [1.0, -1.0])) == pytest.approx(sign_flip(gaps), rel=0.1)
    assert 0 < sign_flip(np.tile(gaps, 3)) < sign_flip(gaps)  # 2^3000 choices are no float


@pytest.mark.parametrize("values", [SHARES, np.linspace(0, 1, 97)], ids=["shares", "others"])
def test_p_is_valid_where_nothing_differs(values):
    ps = [difference(*random_pair(seed, 40, values), resamples=2).p for seed in range(400)]
    assert np.mean(np.asarray(ps) <= 0.1) < 0.14
    assert np.mean(np.asarray(ps) <= 0.5) == pytest.approx(0.5, abs=0.08)


def test_interval_agrees_with_scipys_bootstrap():
    a, b = random_pair(3, 80, np.linspace(0, 1, 50))
    mean = difference(a, b, resamples=20_000)
    interval = stats.bootstrap((a - b,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert mean.mean == pytest.approx(np.mean(a - b))
    assert (mean.low, mean.high) == pytest.approx((interval.low, interval.high), abs=0.006)
    assert mean.n == 80


def test_interval_covers_the_true_difference():
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(0.3, 1, 50), rng.normal(0, 1, 50)) for _ in range(400)]
    covered = np.mean([d.low <= 0.3 <= d.high for d in differences(pairs, resamples=500)])
    assert covered == pytest.approx(0.95, abs=0.035)


def test_many_at_once_are_each_alone_in_their_order():
    pairs = [random_pair(seed, n) for seed, n in enumerate([30, 50, 30, 1, 50])]
    alone = [difference(a, b) for a, b in pairs]
    assert [d.n for d in alone] == [30, 50, 30, 1, 50]
    for together, single in zip(differences(pairs), alone, strict=True):
        assert vars(together) == pytest.approx(vars(single), nan_ok=True)


def test_seed_decides():
    pair = random_pair(5)
    assert difference(*pair, seed=1) == difference(*pair, seed=1) != difference(*pair, seed=2)


def test_resamples_in_blocks(monkeypatch):
    pair = random_pair(5, 40, np.linspace(0, 1, 50))
    whole = difference(*pair, resamples=4000)
    monkeypatch.setattr("fairkv_eval.bootstrap.BLOCK", 4000)
    blocks = difference(*pair, resamples=4000)
    assert (blocks.low, blocks.high) == (pytest.approx(whole.low, abs=0.02), pytest.approx(whole.high, abs=0.02))
    assert blocks.low != whole.low  # other draws, so the blocks were used


def test_no_difference_and_a_single_document():
    assert difference([0.1 + 0.2, 1, 0], [0.3, 1, 0]) == Difference(3, 0.0, 0.0, 0.0, 1.0)
    alone = difference([1], [0])
    assert (alone.n, alone.mean, alone.p) == (1, 1.0, 1.0)
    assert math.isnan(alone.low) and math.isnan(alone.high)


@pytest.mark.parametrize(
    "a, b, message", [([1], [1, 2], "not 1 and 2"), ([], [], "at least one"), ([0, math.nan], [0, 1], "document 1")]
)
def test_what_is_no_pair_is_refused(a, b, message):
    with pytest.raises(UsageError, match=message):
        difference(a, b)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []
    with pytest.raises(UsageError, match="between 0 and 1"):
        holm([0.5, math.nan])


def slow_ranks(scores, higher, alpha=0.05):
    """Exact pairwise tests, Holm by its definition."""
    names = list(scores)
    pairs = list(itertools.combinations(names, 2))
    ps = {(x, y): difference(scores[x], scores[y], resamples=2).p for x, y in pairs}
    better = []
    for i, (x, y) in enumerate(sorted(pairs, key=ps.__getitem__)):
        if ps[x, y] * (len(pairs) - i) >= alpha:
            break
        better.append((x, y) if (np.mean(scores[x]) > np.mean(scores[y])) == higher else (y, x))
    return {name: 1 + sum(loser == name for _, loser in better) for name in names}


@pytest.mark.parametrize("higher", [True, False])
def test_ranks_are_those_of_exact_tests(higher):
    rng = np.random.default_rng(0)
    scores = {f"run {i}": (rng.random(150) < 0.25 + 0.1 * (i // 2)).astype(float) for i in range(8)}
    ranked = ranks(scores, higher_is_better=higher)
    assert {r.name: r.rank for r in ranked} == slow_ranks(scores, higher)
    means = [r.mean for r in ranked]
    assert means == sorted(means, reverse=higher) and len(set(r.rank for r in ranked)) > 2


@pytest.mark.parametrize("seed", range(4))
def test_ranks_of_fractions_are_those_of_exact_tests(seed):
    """One large difference and many small ones of one sign: the normal approximation says p = 0.06."""
    rng = np.random.default_rng(seed)
    base = rng.random(200)
    scores = {f"run {i}": base + rng.normal(0.004 * i, 0.03, 200) for i in range(6)}
    scores["run 6"] = scores["run 5"] + np.where(np.arange(200) == 0, 1.0, 0.0045)
    assert {r.name: r.rank for r in ranks(scores)} == slow_ranks(scores, True)


def test_few_documents_are_ties_whatever_their_difference():
    """The normal approximation alone would call 5 of 5 significant (p = 0.025); the exact test says 0.06."""
    assert [r.rank for r in ranks({"a": [1] * 5, "b": [0] * 5})] == [1, 1]
    assert [r.rank for r in ranks({"a": [1] * 6, "b": [0] * 6})] == [1, 2]


def test_ranks_of_equal_one_or_none():
    assert ranks({}) == []
    assert ranks({"a": [1, 0]}) == [Rank("a", 0.5, 1)]
    assert [r.rank for r in ranks({"b": [0.3] * 40, "a": [0.1 + 0.2] * 40})] == [1, 1]
    with pytest.raises(UsageError, match="same documents"):
        ranks({"a": [1], "b": [1, 2]})


@given(st.lists(st.sampled_from([0.0, 1e-9, 0.01, 0.02, 0.5, 1.0]) | st.floats(0, 1), max_size=40))
def test_holm_is_statsmodels_to_the_last_digit(ps: list[float]) -> None:
    from statsmodels.stats.multitest import multipletests

    assert holm(ps) == (multipletests(ps, method="holm")[1].tolist() if ps else [])


@given(st.integers(2, 6).flatmap(lambda n: st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n))))
def test_yes_or_no_is_ranked_as_any_other_value(rows: list[list[float]]) -> None:
    """A shortcut counts differing documents of 0 and 1; twice the values differ as often, without it."""
    scores = {str(i): row for i, row in enumerate(rows)}
    doubled = {name: [2 * value for value in row] for name, row in scores.items()}
    assert [(p.name, p.rank) for p in ranks(scores)] == [(p.name, p.rank) for p in ranks(doubled)]
