"""A question of ours: among many instructions, do the earlier ones pay, and does fair eviction change that?

Each document's value is the mean over the later half of its instructions minus that over the earlier half, of the
documents with the most instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, takewhile

import numpy as np

from fairkv_eval.bootstrap import Floats
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import Measure, tasks
from fairkv_eval.findings.twins import Pairs, claim, contrasts, fair_pairs, full_pairs
from fairkv_eval.results.recorded_policy import RecordedPolicy

FOLLOWED, KEPT = "acc_position_", "keep_rate_position_"


def places(model: ModelCells) -> Finding:
    needs = "sys_multi under a plain press and the full cache"
    fair_needs = "sys_multi under a press with fair=1 and with fair=0, at the same ratio"
    plain, fair = full_pairs, fair_pairs
    return Finding(
        "places",
        "Among many instructions the earlier ones pay, and fair eviction spreads the loss",
        "",
        (
            claim("following, later − earlier half, plain − full cache", needs, _rows(model, FOLLOWED, plain, 1)),
            claim("kept, later − earlier half, plain − full cache", needs, _rows(model, KEPT, plain, 1)),
            claim("following, later − earlier half, fair − plain", fair_needs, _rows(model, FOLLOWED, fair, -1)),
        ),
    )


def _rows(model: ModelCells, prefix: str, pairs_of: Callable[[TaskCells], Pairs], expected: int) -> Iterator[Contrast]:
    for cells in tasks(model, flipped=False):
        halves = {
            policy: of for policy in cells.records if (of := later_less_earlier(cells, policy, prefix)) is not None
        }
        by_press = {
            press: [halves[policy] - halves[twin] for policy, twin in pairs if policy in halves and twin in halves]
            for press, pairs in pairs_of(cells).items()
        }
        made = {press: values for press, values in by_press.items() if values}
        yield from contrasts(Measure(cells, f"{prefix}<k>", 1), made, expected)


def later_less_earlier(cells: TaskCells, policy: RecordedPolicy, prefix: str) -> Floats | None:
    """Values ``[documents]``: NaN for a document with fewer instructions than the most. None if the policy's record
    lacks the metric, or the task has one place."""
    names = list(takewhile(cells.has, (f"{prefix}{place}" for place in count(1))))
    values = [of for name in names if (of := cells.values(policy, name)) is not None]
    half = len(names) // 2
    if not half or len(values) < len(names):
        return None
    difference: Floats = np.mean(values[-half:], axis=0) - np.mean(values[:half], axis=0)
    return difference
