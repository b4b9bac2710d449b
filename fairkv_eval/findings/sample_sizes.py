"""How many documents a claim takes: from the variances of paired differences that these results have."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from fairkv_eval.bootstrap import Floats
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import of_documents
from fairkv_eval.findings.measures import Measure, following, leakage
from fairkv_eval.findings.twins import Pairs, differences, fair_pairs, full_pairs
from fairkv_eval.findings.verdict import Goal, documents_needed

_COMPARISONS: dict[str, Callable[[TaskCells], Pairs]] = {"plain − full cache": full_pairs, "fair − plain": fair_pairs}


@dataclass(frozen=True)
class SampleSize:
    """The documents that a claim about one difference of two policies takes: the median over such ``pairs`` in these
    results, and the most. ``deviation``: the median standard deviation of a difference by document."""

    task: str
    metric: str
    comparison: str
    pairs: int
    deviation: float
    median: int
    most: int


def sample_sizes(model: ModelCells, goal: Goal) -> list[SampleSize]:
    measures = [*leakage(model, None), *following(model, None)]
    return [size for measure in measures for size in _of_measure(measure, goal)]


def _of_measure(measure: Measure, goal: Goal) -> Iterator[SampleSize]:
    for comparison, pairs_of in _COMPARISONS.items():
        by_press = differences(measure, pairs_of(measure.cells))
        of = [_needed(measure, values, goal) for of_press in by_press.values() for values in of_press]
        defined = [entry for entry in of if entry]
        if defined:
            deviations, counts = zip(*defined, strict=True)
            yield SampleSize(
                *(measure.cells.task, measure.metric, comparison, len(defined)),
                deviation=median(deviations),
                median=math.ceil(median(counts)),
                most=max(counts),
            )


def _needed(measure: Measure, values: Floats, goal: Goal) -> tuple[float, int] | None:
    contrast = of_documents(values, "", measure.cells.task, measure.metric)
    needed = documents_needed(contrast, goal) if contrast else None
    return (math.sqrt(contrast.variance), needed) if contrast and needed else None
