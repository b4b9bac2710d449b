"""The two orders: documents are paired by origin, and losses compared with losses."""

from __future__ import annotations

import numpy as np
import pytest
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.analysis.paired import difference
from fairkv_eval.findings.order import order
from fairkv_eval.findings.verdict import Goal, judged

N = 60
TOVA, KNORM = policy("tova", 0.5), policy("knorm", 0.5)


def tables(seed: int, directive: float, hurt: float) -> dict:
    rng = np.random.default_rng(seed)
    followed = (rng.random(N) < 0.9).astype(float)
    kept = {"keep_rate_defense": [1 - directive] * N, "keep_rate_directive": [directive] * N}
    whole = {"keep_rate_defense": [1.0] * N, "keep_rate_directive": [1.0] * N}
    made = {FULL: {"prompt_level_strict_acc": followed, **whole}}
    for press in (TOVA, KNORM):
        made[press] = {"prompt_level_strict_acc": followed * (rng.random(N) >= hurt), **kept}
    return made


def test_differences_of_differences_by_loops():
    usual, flipped = tables(0, 0.9, 0.1), tables(1, 0.2, 0.7)
    turned = list(range(N))[::-1][:50]  # other places, and fewer documents
    there = {p: {m: [v[i] for i in turned] for m, v in table.items()} for p, table in flipped.items()}
    model = model_cells(
        task_cells("sys_ifeval_defended", usual), task_cells("sys_ifeval_flipped", there, origins=turned)
    )
    follows, kept = order(model).claims

    def losses(table, press) -> list[float]:
        return [table[FULL]["prompt_level_strict_acc"][i] - table[press]["prompt_level_strict_acc"][i] for i in turned]

    for row, press in zip(follows.by_press, (KNORM, TOVA), strict=True):
        wanted = difference(losses(flipped, press), losses(usual, press))
        assert (row.group, row.n) == (press.press, 50)
        assert (row.estimate, row.low, row.high, row.p) == pytest.approx(
            (wanted.mean, wanted.low, wanted.high, wanted.p)
        )
    assert kept.rows[0].estimate == pytest.approx(0.2 - 0.9)
    assert judged(order(model), Goal()).verdict == "appears"


def test_tasks_of_other_data_are_not_paired():
    model = model_cells(
        task_cells("sys_ifeval_defended", tables(0, 0.9, 0.1)),
        task_cells("sys_ifeval_flipped", tables(1, 0.2, 0.7), origins=[f"other {i}" for i in range(N)]),
    )
    assert all(not claim.rows for claim in order(model).claims)


def test_leakage_is_expected_to_rise_less_if_the_directive_stands_first():
    def leaking(share: float) -> dict:
        keep = {"keep_rate_defense": [0.5] * N, "keep_rate_directive": [0.5] * N}
        return {FULL: {"leak@0.3": [0.0] * N, **keep}, TOVA: {"leak@0.3": [share] * N, **keep}}

    model = model_cells(task_cells("raccoon_plain", leaking(0.8)), task_cells("raccoon_flipped", leaking(0.1)))
    leaks = judged(order(model), Goal()).claims[2]
    assert (leaks.rows[0].contrast.estimate, leaks.verdict) == (pytest.approx(-0.7), "appears")
