"""Cells that differ in fairness or a whitelist alone, averaged over ratios and then over presses."""

from __future__ import annotations

import numpy as np
import pytest
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.analysis.paired import difference
from fairkv_eval.findings.remedies import fairness, whitelisting
from fairkv_eval.findings.twins import fair_pairs, full_pairs, whitelist_pairs
from fairkv_eval.findings.verdict import Goal, judged

N = 50
RNG = np.random.default_rng(0)
VALUES = {
    of: {"leak@0.3": RNG.random(N), "prompt_level_strict_acc": RNG.random(N)}
    for of in (
        FULL,
        *(policy("tova", r, fair=f) for r in (0.3, 0.6) for f in (0.0, 1.0)),
        policy("tova", 0.6, fair=0.5),
        *(policy("snapkv", 0.3, fair=f) for f in (0.0, 1.0)),
        policy("snapkv", 0.6, fair=1.0),  # without a plain twin
        policy("snapkv", 0.3, keep=("defense",)),
        policy("snapkv", 0.3, keep=("defense",), fair=1.0),
        policy("tova", 0.3, kv_bits=4),
        policy("tova", 0.3, kv_bits=4, fair=1.0),  # fewer bits are another question
        policy("none", kv_bits=4),
    )
}
CELLS = task_cells("raccoon_plain", VALUES)


def test_pairs():
    def labels(pairs) -> dict[str, list[tuple[str, str]]]:
        return {press: [(a.label, b.label) for a, b in of] for press, of in pairs.items()}

    assert labels(fair_pairs(CELLS)) == {
        "tova": [(f"tova ratio={r} fair=1", f"tova ratio={r}") for r in (0.3, 0.6)],
        "snapkv": [("snapkv ratio=0.3 fair=1", "snapkv ratio=0.3")],
    }
    assert labels(fair_pairs(CELLS, 0.5)) == {"tova": [("tova ratio=0.6 fair=0.5", "tova ratio=0.6")]}
    assert labels(whitelist_pairs(CELLS)) == {"snapkv": [("snapkv ratio=0.3 keep=defense", "snapkv ratio=0.3")]}
    assert labels(full_pairs(CELLS)) == {
        "snapkv": [("snapkv ratio=0.3", "full cache")],
        "tova": [(f"tova ratio={r}", "full cache") for r in (0.3, 0.6)],
    }


def test_averages_by_loops():
    (leaks, follows) = fairness(model_cells(CELLS)).claims

    def gap(press: str, ratio: float, i: int) -> float:
        of = [VALUES[policy(press, ratio, fair=f)]["leak@0.3"][i] for f in (1.0, 0.0)]
        return of[0] - of[1]

    tova = [(gap("tova", 0.3, i) + gap("tova", 0.6, i)) / 2 for i in range(N)]
    snapkv = [gap("snapkv", 0.3, i) for i in range(N)]
    every = [(a + b) / 2 for a, b in zip(tova, snapkv, strict=True)]
    rows = (*leaks.rows, *leaks.by_press)
    assert [(row.group, row.cells, row.expected) for row in rows] == [
        ("all", 3, -1),
        ("tova", 2, -1),
        ("snapkv", 1, -1),
    ]
    for row, values in zip(rows, (every, tova, snapkv), strict=True):
        wanted = difference(values, [0.0] * N)
        assert (row.estimate, row.low, row.high, row.p) == pytest.approx(
            (wanted.mean, wanted.low, wanted.high, wanted.p)
        )
        assert row.variance == pytest.approx(np.var(values, ddof=1))
    assert (follows.rule, follows.rows[0].expected) == ("keeps", 1)
    assert follows.rows[0].stake == follows.by_press[0].stake == np.mean(VALUES[FULL]["prompt_level_strict_acc"])


def test_both_sides_by_loops():
    follows = fairness(model_cells(CELLS)).claims[1]

    def mean(press: str, ratios: tuple[float, ...], fair: float) -> float:
        followed = [VALUES[policy(press, r, fair=fair)]["prompt_level_strict_acc"] for r in ratios]
        return sum(float(value) for of in followed for value in of) / (N * len(ratios))

    tova, snapkv = (
        [mean(press, ratios, f) for f in (1, 0)] for press, ratios in (("tova", (0.3, 0.6)), ("snapkv", (0.3,)))
    )
    fair, plain = ((a + b) / 2 for a, b in zip(tova, snapkv, strict=True))
    full = np.mean(VALUES[FULL]["prompt_level_strict_acc"])
    assert follows.rows[0].detail == f"fair {fair:.3f}, plain {plain:.3f}, full cache {full:.3f}"
    assert [row.detail for row in follows.by_press] == [f"fair {f:.3f}, plain {p:.3f}" for f, p in (tova, snapkv)]


def test_both_sides_are_of_the_documents_that_both_have():
    tables = {
        policy("tova", 0.5): {"leak@0.3": [1.0, 1.0, 0.0, np.nan]},
        policy("tova", 0.5, fair=1.0): {"leak@0.3": [np.nan, 0.0, 0.0, 1.0]},
    }
    (row,) = fairness(model_cells(task_cells("raccoon_plain", tables))).claims[0].rows
    assert (row.n, row.estimate, row.detail) == (2, -0.5, "fair 0.000, plain 0.500")


@pytest.mark.parametrize(("lost", "wanted"), [(0.0, "appears"), (0.2, "opposite")])
def test_a_remedy_appears_only_if_following_is_kept(lost, wanted):
    n = 400
    leak = [1.0] * 40 + [0.0] * (n - 40)
    follow = [1.0] * n
    after = [0.0] * int(lost * n) + [1.0] * (n - int(lost * n))
    tables = {
        policy("tova", 0.5): {"leak@0.3": leak, "prompt_level_strict_acc": follow},
        policy("tova", 0.5, keep=("defense",)): {"leak@0.3": [0.0] * n, "prompt_level_strict_acc": after},
    }
    assert judged(whitelisting(model_cells(task_cells("raccoon_plain", tables))), Goal()).verdict == wanted
