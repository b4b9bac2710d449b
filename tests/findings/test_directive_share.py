"""Following over the share of the directive that is kept: the slope by loops, and what the finding asks for."""

from __future__ import annotations

import numpy as np
import pytest
from made_cells import model_cells, policy, task_cells

from fairkv_eval.analysis.paired import difference
from fairkv_eval.findings.cells import TaskCells
from fairkv_eval.findings.directive_share import directive_share
from fairkv_eval.findings.verdict import Goal, judged

N = 60
SHARES = {("tova", 0.3): (0.9, 0.7), ("tova", 0.6): (0.6, 0.5), ("knorm", 0.3): (0.5, 0.7), ("knorm", 0.6): (0.1, 0.4)}


def followed(share: float, seed: int) -> list[float]:
    return (np.random.default_rng(seed).random(N) < share).astype(float).tolist()


def made(sign: float = 1.0, pairs: int = len(SHARES), task: str = "sys_ifeval_flipped") -> TaskCells:
    """Each pair's plain and fair policy follow as often as they keep the directive, or (sign −1) as they drop it."""
    tables = {}
    for seed, ((press, ratio), shares) in enumerate(list(SHARES.items())[:pairs]):
        for fair, share in enumerate(shares):
            follows = followed(share if sign > 0 else 1 - share, 2 * seed + fair)
            kept = (share + np.linspace(-0.01, 0.01, N)).tolist()
            tables[policy(press, ratio, fair=float(fair))] = {
                "prompt_level_strict_acc": follows,
                "keep_rate_directive": kept,
            }
    return task_cells(task, tables)


def slope_by_loops(cells: TaskCells) -> list[float]:
    """Of each document, by the textbook's formula; the mean of these is the slope through the means."""
    changes, shares = [], []
    for press, ratio in SHARES:
        plain, fair = (cells.tables[policy(press, ratio, fair=degree)] for degree in (0.0, 1.0))
        changes.append([fair["prompt_level_strict_acc"][i] - plain["prompt_level_strict_acc"][i] for i in range(N)])
        shares.append(sum(fair["keep_rate_directive"][i] - plain["keep_rate_directive"][i] for i in range(N)) / N)
    mean = sum(shares) / len(shares)
    square = sum((share - mean) ** 2 for share in shares)
    return [
        sum((share - mean) * change[i] for share, change in zip(shares, changes, strict=True)) / square
        for i in range(N)
    ]


def test_the_slope_by_loops() -> None:
    cells = made()
    first, second = directive_share(model_cells(cells)).claims
    (row,) = first.rows
    assert not second.rows and "sys_ifeval_defended" in second.needs
    wanted = difference(slope_by_loops(cells), [0.0] * N)
    assert (row.estimate, row.low, row.high, row.p) == pytest.approx((wanted.mean, wanted.low, wanted.high, wanted.p))
    means = [
        np.mean(followed(fair, 2 * i + 1)) - np.mean(followed(plain, 2 * i))
        for i, (plain, fair) in enumerate(SHARES.values())
    ]
    line = np.polyfit([fair - plain for plain, fair in SHARES.values()], means, 1)
    assert row.estimate == pytest.approx(line[0])
    assert np.argsort(means).tolist() == [0, 1, 2, 3]
    assert row.detail == "4 pairs of policies, directive kept -0.20 to +0.30, rank correlation +1.00"


@pytest.mark.parametrize(("sign", "verdict"), [(1.0, "appears"), (-1.0, "opposite")])
def test_following_that_rises_or_falls_with_what_is_kept(sign: float, verdict: str) -> None:
    finding = judged(directive_share(model_cells(made(sign), made(sign, task="sys_ifeval_defended"))), Goal())
    assert [claim.verdict for claim in finding.claims] == [verdict, verdict]


def test_two_pairs_and_equal_shares_make_no_slope() -> None:
    assert not directive_share(model_cells(made(pairs=2))).claims[0].rows
    flat = made()
    for table in flat.tables.values():
        table["keep_rate_directive"][:] = 0.5
    claim = directive_share(model_cells(flat)).claims[0]
    assert not claim.rows and "three presses or ratios" in claim.needs
