"""A question of ours: among many instructions, do the earlier ones pay, and does fair eviction change that?

Each document's value is the mean over the later half of its instructions minus that over the earlier half, of the
documents with the most instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count, takewhile
from typing import NamedTuple

import numpy as np

from fairkv_eval.bootstrap import Floats
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import Measure, tasks
from fairkv_eval.findings.twins import FAIR, FULL, Pairs, Sides, claim, contrasts, fair_pairs, full_pairs, levels
from fairkv_eval.results.recorded_policy import RecordedPolicy

FOLLOWED, KEPT = "acc_position_", "keep_rate_position_"


class Halves(NamedTuple):
    """Means over the earlier and the later half of a document's instructions, ``[documents]`` each: NaN for a document
    with fewer instructions than the most."""

    earlier: Floats
    later: Floats

    @property
    def gap(self) -> Floats:
        return self.later - self.earlier


def places(model: ModelCells) -> Finding:
    needs = "sys_multi under a plain press and the full cache"
    fair_needs = "sys_multi under a press with fair=1 and with fair=0, at the same ratio"
    plain_kept, plain_followed = (list(_rows(model, metric, full_pairs, FULL, 1)) for metric in (KEPT, FOLLOWED))
    fair_kept, fair_followed = (list(_rows(model, metric, fair_pairs, FAIR, -1)) for metric in (KEPT, FOLLOWED))
    return Finding(
        "places",
        "Among many instructions the earlier ones pay, and fair eviction spreads the loss",
        "",
        (
            claim("following, later − earlier half, plain − full cache", needs, plain_followed),
            claim("kept, later − earlier half, plain − full cache", needs, plain_kept),
            claim("following, later − earlier half, fair − plain", fair_needs, fair_followed),
            claim("kept, later − earlier half, fair − plain", fair_needs, fair_kept),
        ),
    )


def _rows(
    model: ModelCells, prefix: str, pairs_of: Callable[[TaskCells], Pairs], sides: Sides, expected: int
) -> Iterator[Contrast]:
    for cells in tasks(model, flipped=False):
        of = {policy: both for policy in cells.records if (both := halves(cells, policy, prefix)) is not None}
        by_press = {
            press: measured
            for press, pairs in pairs_of(cells).items()
            if (measured := [(of[policy], of[twin]) for policy, twin in pairs if policy in of and twin in of])
        }
        gaps = {press: [policy.gap - twin.gap for policy, twin in pairs] for press, pairs in by_press.items()}
        for row in contrasts(Measure(cells, f"{prefix}<k>", 1), gaps, expected):
            yield replace(row, detail=_in_words(by_press, sides, row.group))


def halves(cells: TaskCells, policy: RecordedPolicy, prefix: str) -> Halves | None:
    """None if the policy's record lacks the metric, or the task has one place."""
    names = list(takewhile(cells.has, (f"{prefix}{place}" for place in count(1))))
    values = [of for name in names if (of := cells.values(policy, name)) is not None]
    half = len(names) // 2
    if not half or len(values) < len(names):
        return None
    whole = ~np.isnan(values[-1])
    earlier, later = (np.where(whole, np.mean(of, axis=0), np.nan) for of in (values[:half], values[-half:]))
    return Halves(earlier, later)


def _in_words(by_press: Mapping[str, Sequence[tuple[Halves, Halves]]], sides: Sides, group: str) -> str:
    earlier, later = (
        levels(
            {press: [(policy[half], twin[half]) for policy, twin in pairs] for press, pairs in by_press.items()}, group
        )
        for half in (0, 1)
    )
    return "; ".join(
        f"{side}: earlier {first:.3f}, later {second:.3f}"
        for side, first, second in zip(sides, earlier, later, strict=True)
    )
