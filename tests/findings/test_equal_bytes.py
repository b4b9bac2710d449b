"""Evicting, merging and quantizing at equal bytes: which policies represent a kind, and what is compared."""

from __future__ import annotations

import pytest
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.findings.equal_bytes import equal_bytes, kind_of

N = 40
FOUR, EIGHT = policy("none", kv_bits=4), policy("none", kv_bits=8)
HELD = {FOUR: 0.28, EIGHT: 0.53}


def table(followed: int) -> dict[str, list[float]]:
    return {"prompt_level_strict_acc": [1.0] * followed + [0.0] * (N - followed)}


def test_kinds():
    kinds = {
        policy("tova", 0.5): "evict",
        policy("tova", 0.5, fair=1.0): "evict",
        policy("tova", 0.5, keep=("defense",)): None,
        policy("tova", 0.5, merge="d2o"): "merge",
        FOUR: "quantize",
        policy("none", key_channels=0.5): "quantize",
        policy("tova", 0.5, kv_bits=4): "evict and quantize",
        policy("tova", 0.5, fair=1.0, key_channels=0.5): "evict and quantize",
        policy("tova", 0.5, kv_bits=4, merge="similar"): None,
        policy("tova", 0.5, kv_bits=4, decode_budget=64): None,
        policy("tova", 0.5, decode_budget=64): None,
        policy("tova", 0.5, positions="contiguous"): None,
        FULL: None,
    }
    assert {of: kind_of(of) for of in kinds} == kinds


def test_the_best_at_the_nearest_bytes_represents_a_kind():
    tables = {
        FULL: table(40),
        FOUR: table(30),
        EIGHT: table(38),
        policy("tova", 0.7): table(10),
        policy("tova", 0.7, fair=1.0): table(20),  # the best at 0.3
        policy("knorm", 0.75): table(40),  # holds 0.25: near, but not nearest
        policy("tova", 0.47): table(36),
        policy("tova", 0.2): table(40),  # holds far more
        policy("tova", 0.7, merge="similar"): table(24),
        policy("tova", 0.4, kv_bits=8): table(28),
    }
    held = {**HELD, policy("tova", 0.4, kv_bits=8): 0.3}
    model = model_cells(task_cells("sys_ifeval_defended", tables, held=held))
    evict, merge, merge_evict, both_evict, both = equal_bytes(model).claims
    assert {row.group: row.estimate for row in evict.by_press} == pytest.approx(
        {"28% of bytes": (30 - 20) / N, "53% of bytes": (38 - 36) / N}
    )
    assert evict.rows[0].estimate == pytest.approx((10 + 2) / N / 2)
    assert evict.rows[0].detail.startswith("28%: full cache kv_bits=4 − tova ratio=0.7 fair=1; 53%: ")
    assert {row.group: row.estimate for row in merge.by_press} == pytest.approx({"28% of bytes": (30 - 24) / N})
    assert {row.group: row.estimate for row in merge_evict.by_press} == pytest.approx({"28% of bytes": (24 - 20) / N})
    assert {row.group: row.estimate for row in both_evict.by_press} == pytest.approx({"28% of bytes": (28 - 20) / N})
    assert {row.group: row.estimate for row in both.by_press} == pytest.approx({"28% of bytes": (30 - 28) / N})


def test_lower_is_better_for_fidelity():
    tables = {
        FULL: {"fidelity_kl": [0.0] * N},
        FOUR: {"fidelity_kl": [0.1] * N},
        policy("tova", 0.72): {"fidelity_kl": [0.4] * N},
        policy("knorm", 0.72): {"fidelity_kl": [0.3] * N},
    }
    (row,) = equal_bytes(model_cells(task_cells("raccoon_plain", tables, held=HELD))).claims[0].rows
    assert (row.estimate, row.expected, row.points) == (pytest.approx(-0.2), -1, False)
    assert "knorm" in row.detail


def test_fidelity_decides_before_leakage_which_is_often_the_same():
    policies = (FULL, FOUR, policy("tova", 0.72))
    tables = {of: {"refusal": [1.0] * N, "fidelity_kl": [float(of.kv_bits)] * N} for of in policies}
    rows = equal_bytes(model_cells(task_cells("raccoon_plain", tables, held=HELD))).claims[0].rows
    assert [row.metric for row in rows] == ["fidelity_kl", "refusal"]


def test_without_quantized_ones_merged_ones_set_the_size():
    tables = {
        policy("tova", 0.6, merge="d2o"): table(30),
        policy("tova", 0.6): table(20),
        policy("tova", 0.3): table(40),
    }
    claims = equal_bytes(model_cells(task_cells("sys_multi", tables))).claims
    assert [len(claim.rows) for claim in claims] == [0, 0, 1, 0, 0]
    assert claims[2].by_press[0].group == "40% of bytes"
