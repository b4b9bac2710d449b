"""The rank correlation of KL and outcomes: by loops, with its resamples, and what it asks for."""

from __future__ import annotations

import numpy as np
import pytest
from made_cells import FULL, model_cells, policy, task_cells
from scipy.stats import spearmanr

from fairkv_eval.bootstrap import weights
from fairkv_eval.findings.cells import TaskCells
from fairkv_eval.findings.fidelity_proxy import RESAMPLES, fidelity_proxy
from fairkv_eval.findings.verdict import Goal, judged

N = 50
RATIOS = (0.1, 0.3, 0.5, 0.6, 0.7, 0.9)


def made(slope: float, ratios=RATIOS, metric: str = "refusal", unknown: int = 0) -> TaskCells:
    """KL rises with the ratio, and the share that refuses or follows by ``slope``; the first documents lack KL."""
    rng = np.random.default_rng(0)
    tables = {FULL: {"fidelity_kl": np.zeros(N), metric: np.ones(N)}}
    for ratio in ratios:
        kl = rng.exponential(ratio, N)
        kl[:unknown] = np.nan
        tables[policy("tova", ratio)] = {"fidelity_kl": kl, metric: rng.random(N) < 0.5 + slope * (ratio - 0.5)}
    return task_cells("raccoon_plain" if metric == "refusal" else "sys_ifeval_defended", tables)


@pytest.mark.parametrize("unknown", [0, 7])
def test_the_correlation_is_scipys_without_the_full_cache_and_documents_that_lack_a_value(unknown: int) -> None:
    cells = made(-0.5, unknown=unknown)
    (row,) = fidelity_proxy(model_cells(cells)).claims[0].rows
    kl, refusal = (
        np.array([cells.tables[policy("tova", ratio)][name] for ratio in RATIOS])[:, unknown:]
        for name in ("fidelity_kl", "refusal")
    )
    assert (row.n, row.cells) == (N - unknown, len(RATIOS))
    assert row.estimate == pytest.approx(spearmanr(kl.mean(axis=1), refusal.mean(axis=1)).statistic)
    resampled = [
        spearmanr(np.round(kl @ weight, 9), np.round(refusal @ weight, 9)).statistic
        for block in weights(N - unknown, RESAMPLES)
        for weight in block
    ]
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))


@pytest.mark.parametrize(
    ("slope", "metric", "verdict"),
    [
        (-0.9, "refusal", "appears"),
        (0.9, "refusal", "opposite"),
        (-0.9, "prompt_level_strict_acc", "appears"),
        (0.0, "refusal", "cannot be told"),
    ],
)
def test_verdicts(slope: float, metric: str, verdict: str) -> None:
    assert judged(fidelity_proxy(model_cells(made(slope, metric=metric))), Goal()).verdict == verdict


def test_four_policies_and_equal_outcomes_rank_nothing() -> None:
    assert not fidelity_proxy(model_cells(made(-0.5, RATIOS[:4]))).claims[0].rows
    same = made(-0.5)
    for table in same.tables.values():
        table["refusal"][:] = 1
    assert not fidelity_proxy(model_cells(same)).claims[0].rows


def test_each_task_with_fidelity_has_its_own_row() -> None:
    refusals, followed = made(-0.9), made(-0.9, metric="prompt_level_strict_acc")
    without = made(-0.9, metric="prompt_level_strict_acc")
    for table in without.tables.values():
        del table["fidelity_kl"]
    flipped = task_cells("sys_ifeval_flipped", without.tables)
    rows = fidelity_proxy(model_cells(refusals, followed, flipped)).claims[0].rows
    assert sorted(row.task for row in rows) == ["raccoon_plain", "sys_ifeval_defended"]
