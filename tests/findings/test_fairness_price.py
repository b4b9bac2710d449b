"""What fairness costs and buys, by degree, over the same presses at each degree."""

from __future__ import annotations

import pytest
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.findings.fairness_price import flipped_following, price
from fairkv_eval.findings.verdict import Goal, judged

N = 40


def table(kl: float, refusals: int) -> dict[str, list[float]]:
    return {"fidelity_kl": [kl] * N, "refusal": [1.0] * refusals + [0.0] * (N - refusals)}


def test_by_degree_over_the_policies_that_have_all():
    tables = {
        FULL: table(0.0, 40),
        policy("tova", 0.6): table(0.1, 10),
        policy("tova", 0.6, fair=0.5): table(0.15, 20),
        policy("tova", 0.6, fair=1.0): table(0.3, 36),
        policy("tova", 0.3): table(0.1, 40),
        policy("tova", 0.3, fair=1.0): table(0.7, 0),  # no degree between
        policy("knorm", 0.6): table(0.1, 40),
        policy("knorm", 0.6, fair=1.0): table(9.0, 0),  # no degree between
    }
    whole_fidelity, whole_refusals, fidelity, refusals = price(model_cells(task_cells("raccoon_plain", tables))).claims
    assert {row.metric: row.estimate for row in fidelity.rows} == pytest.approx(
        {"fidelity_kl, fair=1": 0.2, "fidelity_kl, fair=0.5": 0.05}
    )
    assert {row.metric: row.estimate for row in refusals.rows} == pytest.approx(
        {"refusal, fair=1": 26 / N, "refusal, fair=0.5": 10 / N}
    )
    assert [row.expected for row in (*fidelity.rows, *refusals.rows)] == [1, 1, 1, 1]
    assert {row.group for row in refusals.by_press} == {"tova"}
    assert [row.metric for row in (*whole_fidelity.rows, *whole_refusals.rows)] == ["fidelity_kl", "refusal"]
    assert whole_fidelity.rows[0].estimate == pytest.approx(((0.2 + 0.6) / 2 + 8.9) / 2)  # of all presses and ratios
    by_press = {row.group: row.estimate for row in whole_refusals.by_press}
    assert by_press == pytest.approx({"tova": (26 / N - 1) / 2, "knorm": -1})


def test_whole_fairness_alone_has_no_claim_by_degree():
    tables = {policy("tova", 0.6): table(0.1, 10), policy("tova", 0.6, fair=1.0): table(0.3, 36)}
    claims = price(model_cells(task_cells("raccoon_plain", tables))).claims
    assert [(claim.measured, claim.rows[0].estimate) for claim in claims] == [
        ("KL to the full cache in nats, fair − plain", pytest.approx(0.2)),
        ("refusals, fair − plain", pytest.approx(26 / N)),
    ]


def test_following_in_the_flipped_order_alone():
    def followed(k: int, kept: float) -> dict[str, list[float]]:
        return {"prompt_level_strict_acc": [1.0] * k + [0.0] * (N - k), "keep_rate_directive": [kept] * N}

    plain, fair = policy("tova", 0.6), policy("tova", 0.6, fair=1.0)
    flipped = task_cells("sys_ifeval_flipped", {plain: followed(4, 0.02), fair: followed(20, 0.36)})
    usual = task_cells("sys_ifeval_defended", {plain: followed(30, 0.8), fair: followed(0, 0.36)})
    result = judged(flipped_following(model_cells(flipped, usual)), Goal())
    assert result.verdict == "appears"
    assert [row.contrast.task for claim in result.claims for row in claim.rows] == ["sys_ifeval_flipped"] * 2
    assert [claim.rows[0].contrast.estimate for claim in result.claims] == pytest.approx([16 / N, 0.34])
