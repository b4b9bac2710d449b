"""The bias of presses: against plain loops, and the ranking's verdicts."""

from __future__ import annotations

import numpy as np
import pytest
from made_cells import model_cells, policy, task_cells

from fairkv_eval.bootstrap import weights
from fairkv_eval.findings.press_bias import RESAMPLES, bias, of_gaps
from fairkv_eval.findings.verdict import Goal, judged

N = 40
PAPER = {"streaming_llm": 0.6, "snapkv": 0.5, "h2o": 0.4, "tova": 0.3, "knorm": 0.1}


def cells(biases: dict[str, float], noise: float = 0.05):
    rng = np.random.default_rng(0)
    tables = {}
    for press, gap in biases.items():
        for ratio in (0.3, 0.6):
            defense = 0.3 + rng.normal(0, noise, N)
            tables[policy(press, ratio)] = {"keep_rate_defense": defense, "keep_rate_directive": defense + gap}
    return model_cells(task_cells("raccoon_plain", tables))


def test_value_and_resamples_by_loops():
    gaps = np.random.default_rng(1).normal([0.2, -0.3, 0.0], 0.5, (N, 3))
    result = of_gaps(gaps)
    assert result.value == pytest.approx(sum(abs(sum(column) / N) for column in gaps.T.tolist()) / 3)
    assert result.by_document.mean() == pytest.approx(result.value)
    for resampled, weight in zip(result.resampled[:50], np.concatenate(list(weights(N, RESAMPLES))), strict=False):
        means = [sum(w * v for w, v in zip(weight, column, strict=True)) for column in gaps.T.tolist()]
        assert resampled == pytest.approx(sum(map(abs, means)) / 3)


@pytest.mark.parametrize(
    ("biases", "verdicts"),
    [
        (PAPER, ["appears", "appears"]),
        ({**PAPER, "tova": 0.55}, ["opposite", "appears"]),
        ({**PAPER, "knorm": 0.35}, ["appears", "opposite"]),
        ({p: b for p, b in PAPER.items() if p != "knorm"}, ["appears", "cannot be told"]),
        ({p: b for p, b in PAPER.items() if p != "snapkv"}, ["cannot be told", "cannot be told"]),
        ({**PAPER, "kvzip": 0.9}, ["appears", "appears"]),  # not one of the paper's
    ],
)
def test_verdicts(biases, verdicts):
    result = judged(bias(cells(biases)), Goal())
    assert [claim.verdict for claim in result.claims] == verdicts


def test_estimates_and_ranking():
    most, fewest = bias(cells(PAPER)).claims
    assert most.rows[0].estimate == pytest.approx(0.5 - 0.4) and fewest.rows[0].estimate == pytest.approx(0.3 - 0.1)
    assert [row.group for row in fewest.by_press] == list(PAPER)
    assert most.rows[0].detail.startswith("bias: streaming_llm 0.600, snapkv 0.500")


def test_a_document_without_a_segment_is_left_out_for_all():
    model = cells(PAPER)
    (task,) = model.tasks.values()
    task.tables[policy("h2o", 0.3)]["keep_rate_defense"][0] = np.nan
    most, _ = bias(model).claims
    assert most.rows[0].n == N - 1
