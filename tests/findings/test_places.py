"""Earlier and later instructions: halves by loops, and what the claims say of a press that drops what stands first."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.analysis.paired import difference
from fairkv_eval.findings.places import halves, places
from fairkv_eval.findings.verdict import Goal, judged

N, COUNT = 40, 5  # documents with all instructions; as many have one
PLAIN, FAIR = policy("streaming_llm", 0.5), policy("streaming_llm", 0.5, fair=1.0)


def table(seed: int, earlier: float, later: float) -> dict[str, list[float]]:
    """Followed and kept by place; half of the documents have one instruction. The middle one of five is in no half."""
    rng = np.random.default_rng(seed)
    shares = [earlier, earlier, 0.5, later, later]
    made = {}
    for place, share in enumerate(shares, 1):
        followed = (rng.random(2 * N) < share).astype(float)
        kept = np.full(2 * N, share)
        if place > 1:
            followed[N:] = kept[N:] = np.nan
        made |= {f"acc_position_{place}": followed.tolist(), f"keep_rate_position_{place}": kept.tolist()}
    return made


TABLES = {FULL: table(0, 0.8, 0.8), PLAIN: table(1, 0.1, 0.8), FAIR: table(2, 0.45, 0.45)}


def gaps(of: dict[str, list[float]]) -> list[float]:
    """By loops, of the documents with all instructions."""
    return [
        (of["acc_position_4"][i] + of["acc_position_5"][i]) / 2
        - (of["acc_position_1"][i] + of["acc_position_2"][i]) / 2
        for i in range(N)
    ]


def half_by_loops(of: dict[str, list[float]], places: tuple[int, ...]) -> float:
    return sum(of[f"acc_position_{place}"][i] for place in places for i in range(N)) / (N * len(places))


def test_halves_and_their_differences_by_loops() -> None:
    cells = task_cells("sys_multi", TABLES)
    both = halves(cells, PLAIN, "acc_position_")
    assert both is not None
    assert both.gap[:N].tolist() == gaps(TABLES[PLAIN]) and all(math.isnan(of) for half in both for of in half[N:])
    follows, kept, fair, fair_kept = places(model_cells(cells)).claims
    for row, wanted in (
        (follows.rows[0], difference(gaps(TABLES[PLAIN]), gaps(TABLES[FULL]))),
        (fair.rows[0], difference(gaps(TABLES[FAIR]), gaps(TABLES[PLAIN]))),
    ):
        assert row.n == N and (row.estimate, row.low, row.high) == pytest.approx((wanted.mean, wanted.low, wanted.high))
    assert kept.rows[0].estimate == pytest.approx(0.7)
    assert kept.rows[0].detail == "plain: earlier 0.100, later 0.800; full cache: earlier 0.800, later 0.800"
    assert fair.by_press[0].detail == "; ".join(
        f"{side}: earlier {half_by_loops(of, (1, 2)):.3f}, later {half_by_loops(of, (4, 5)):.3f}"
        for side, of in (("fair", TABLES[FAIR]), ("plain", TABLES[PLAIN]))
    )
    assert fair_kept.rows[0].estimate == pytest.approx(-0.7)
    assert [claim.verdict for claim in judged(places(model_cells(cells)), Goal()).claims] == ["appears"] * 4


def test_a_press_that_drops_what_stands_last_is_the_opposite() -> None:
    tables = {FULL: table(0, 0.8, 0.8), PLAIN: table(1, 0.8, 0.1)}
    finding = judged(places(model_cells(task_cells("sys_multi", tables))), Goal())
    assert [claim.verdict for claim in finding.claims] == ["opposite", "opposite", "cannot be told", "cannot be told"]


@pytest.mark.parametrize("of", [{"acc_position_1": [1.0] * 4}, {"prompt_level_strict_acc": [1.0] * 4}])
def test_without_several_places_nothing_can_be_told(of: dict[str, list[float]]) -> None:
    finding = places(model_cells(task_cells("sys_multi", {FULL: of, PLAIN: of})))
    assert not any(claim.rows for claim in finding.claims)
