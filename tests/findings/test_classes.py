"""The spread of classes' losses: against plain loops, and by simulation its errors, intervals and sample sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.bootstrap import weights
from fairkv_eval.findings.classes import RESAMPLES, class_rates, spread
from fairkv_eval.findings.verdict import Goal, documents_needed

NAMES = ("keywords", "language", "startend", "punctuation", "combination")


def draws(effects, n: int, rng) -> np.ndarray:
    """Losses of documents with one or two classes, whose verdicts hang together."""
    losses = np.full((n, len(effects)), np.nan)
    for row in losses:
        common = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.10])
        for name in rng.choice(len(effects), rng.integers(1, 3), replace=False):
            alone = rng.choice([-1.0, 0.0, 1.0], p=[0.05, 0.85 - effects[name], 0.10 + effects[name]])
            row[name] = common if rng.random() < 0.5 else alone
    return losses


def square(means, counts) -> float:
    total = sum(counts)
    mean = sum(m * c for m, c in zip(means, counts, strict=True)) / total
    return sum(c * (m - mean) ** 2 for m, c in zip(means, counts, strict=True)) / total


def test_estimate_p_and_variance_by_loops():
    losses = draws([0.3, 0.0, 0.1], 60, np.random.default_rng(3))
    result = spread(losses, NAMES[:3], "all", "task")
    columns = [[(i, v) for i, v in enumerate(column) if not math.isnan(v)] for column in losses.T]
    counts = [len(column) for column in columns]
    means = [sum(v for _, v in column) / len(column) for column in columns]
    chance = []
    for weight in np.concatenate(list(weights(60, RESAMPLES))):
        again = [sum(weight[i] * v for i, v in c) / sum(weight[i] for i, _ in c) for c in columns]
        off = [(a - m) * math.sqrt(c / (c - 1)) for a, m, c in zip(again, means, counts, strict=True)]
        chance.append(square(off, counts))
    noise = sum(chance) / len(chance)
    assert result.estimate == pytest.approx(math.sqrt(max(0.0, square(means, counts) - noise)))
    assert result.p == pytest.approx((1 + sum(c >= square(means, counts) for c in chance)) / (1 + len(chance)))
    assert result.variance == pytest.approx(60 * noise)
    assert result.degrees == 2


@pytest.mark.parametrize("effects", [(0.0,) * 5, (0.3, 0.0, 0.0, 0.2, 0.4)])
def test_errors_and_intervals(effects):
    rng = np.random.default_rng(0)
    result = [spread(draws(effects, 200, rng), NAMES, "all", "task") for _ in range(100)]
    truth = math.sqrt(square([e / 2 for e in effects], [1] * 5))
    covered = np.mean([row.low <= truth + 1e-12 and truth <= row.high for row in result])
    assert covered >= 0.9
    if not any(effects):
        assert np.mean([row.p < 0.05 for row in result]) <= 0.1
    else:
        assert np.mean([row.estimate for row in result]) == pytest.approx(truth, abs=0.015)
        needed = [documents_needed(row, Goal(size=truth)) for row in result]
        again = [spread(draws(effects, int(np.median(needed)), rng), NAMES, "all", "task").p < 0.05 for _ in range(100)]
        assert 0.65 <= np.mean(again) <= 0.95  # planned for 0.8


def test_equal_losses_have_no_spread():
    result = spread(np.full((40, 3), 0.25), NAMES[:3], "all", "task")
    assert (result.estimate, result.low, result.high, result.p) == (0.0, 0.0, 0.0, 1.0)


def test_a_class_that_is_rare_or_never_followed_is_left_out_and_presses_are_averaged():
    n = 40
    full = {"acc_keywords": [1.0] * n, "acc_startend": [1.0] * n, "acc_language": [0.0] * n}
    full["acc_punctuation"] = [1.0] * 9 + [np.nan] * (n - 9)

    def losing(keywords: int) -> dict[str, list[float]]:
        return {**full, "acc_keywords": [0.0] * keywords + [1.0] * (n - keywords)}

    cells = task_cells(
        "sys_ifeval_defended",
        {FULL: full, policy("tova", 0.5): losing(20), policy("tova", 0.7): losing(40), policy("knorm", 0.5): losing(0)},
    )
    (claim,) = class_rates(model_cells(cells)).claims
    (row,) = claim.rows
    assert row.detail == "lost: keywords +0.375, startend +0.000"  # (0.5 + 1) / 2 of tova, 0 of knorm
    assert row.cells == 3 and [(c.group, c.cells) for c in claim.by_press] == [("knorm", 1), ("tova", 2)]
    assert row.p < 0.01 and row.low > 0


def test_without_the_full_cache_there_is_no_loss():
    cells = task_cells("sys_multi", {policy("tova", 0.5): {"acc_keywords": [1.0] * 20, "acc_startend": [1.0] * 20}})
    assert class_rates(model_cells(cells)).claims[0].rows == ()
