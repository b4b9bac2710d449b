"""Single against multi: the difference of two kinds of prompts, against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_cells import FULL, model_cells, policy, task_cells
from scipy import stats

from fairkv_eval.bootstrap import weights
from fairkv_eval.findings.numbers import RESAMPLES, single_and_multi, unpaired


def halves(single: list[float], multi: list[float]) -> tuple[np.ndarray, np.ndarray]:
    nothing = [math.nan]
    return np.asarray(single + nothing * len(multi)), np.asarray(nothing * len(single) + multi)


def test_estimate_interval_and_p_by_loops():
    rng = np.random.default_rng(5)
    single, multi = rng.choice([0.0, 1.0, -1.0], 30).tolist(), rng.choice([0.0, 1.0], 20).tolist()
    result = unpaired(*halves(single, multi), "all", "task")
    mean = [sum(of) / len(of) for of in (single, multi)]
    var = [sum((v - m) ** 2 for v in of) / (len(of) - 1) for of, m in zip((single, multi), mean, strict=True)]
    assert result.estimate == pytest.approx(mean[1] - mean[0])
    assert result.variance == pytest.approx(50 * (var[0] / 30 + var[1] / 20))
    gaps = []
    for weight in np.concatenate(list(weights(50, RESAMPLES))):
        first = sum(w * v for w, v in zip(weight[:30], single, strict=True)) / sum(weight[:30])
        gaps.append(sum(w * v for w, v in zip(weight[30:], multi, strict=True)) / sum(weight[30:]) - first)
    assert (result.low, result.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])))
    t = (mean[1] - mean[0]) / math.sqrt(var[0] / 30 + var[1] / 20)
    assert result.p == pytest.approx(math.erfc(abs(t) / math.sqrt(2)), abs=0.02)  # nearly normal


def test_p_is_that_of_unequal_variances():
    rng = np.random.default_rng(2)
    single, multi = (rng.normal(0, 3, 6).tolist(), rng.normal(1, 0.2, 60).tolist())
    wanted = stats.ttest_ind(multi, single, equal_var=False).pvalue
    assert unpaired(*halves(single, multi), "all", "task").p == pytest.approx(wanted)
    assert abs(wanted - stats.ttest_ind(multi, single).pvalue) > 0.05


def test_rates_of_error_where_nothing_differs():
    rng = np.random.default_rng(1)
    draws = [halves(*(rng.choice([0.0, 1.0], n).tolist() for n in (40, 25))) for _ in range(300)]
    assert np.mean([unpaired(*draw, "all", "task").p < 0.05 for draw in draws]) <= 0.08


def test_losses_by_press_and_by_number():
    def table(single: float, pairs: float, triples: float) -> dict[str, list[float]]:
        nothing = [math.nan] * 4
        return {
            "acc_single": [single] * 4 + nothing * 2,
            "acc_multi": nothing + [pairs] * 4 + [triples] * 4,
            "acc_n1": [single] * 4 + nothing * 2,
            "acc_n2": nothing + [pairs] * 4 + nothing,
            "acc_n3": nothing * 2 + [triples] * 4,
        }

    tables = {FULL: table(1, 1, 1), policy("tova", 0.5): table(1, 0.5, 0), policy("h2o", 0.5): table(0, 0, 0)}
    (claim,) = single_and_multi(model_cells(task_cells("sys_multi", tables))).claims
    (row,) = claim.rows
    assert row.estimate == pytest.approx((0.75 + 1) / 2 - (0 + 1) / 2)
    assert row.detail == "lost by number: 1: +0.500, 2: +0.750, 3: +1.000"
    assert {of.group: of.estimate for of in claim.by_press} == pytest.approx({"h2o": 0.0, "tova": 0.75})
