"""Finding 2: prompts with one instruction and with several degrade at different rates."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from fairkv_eval.bootstrap import Floats, interval, resampled_means
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import ALL, Contrast, averaged
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import LOSSES_NEED, Measure, tasks
from fairkv_eval.findings.twins import claim, differences, full_pairs

RESAMPLES = 2000

_KINDS = ("acc_single", "acc_multi")


def single_and_multi(model: ModelCells) -> Finding:
    rows = [row for cells in tasks(model, flipped=False) for row in _rows(cells)]
    return Finding(
        "numbers",
        "Prompts with one instruction and with several degrade differently",
        "single- and multi-instruction prompts differ",
        (claim("loss (full cache − plain) with several instructions − with one", LOSSES_NEED, rows),),
    )


def _rows(cells: TaskCells) -> Iterator[Contrast]:
    single, multi = (_losses(cells, metric) for metric in _KINDS)
    details = {number: _losses(cells, f"acc_n{number}") for number in _numbers(cells)}
    for group, (of_single, count) in single.items():
        if group in multi and all((~np.isnan(of)).sum() > 1 for of in (of_single, multi[group][0])):
            words = ", ".join(f"{n}: {np.nanmean(of[group][0]):+.3f}" for n, of in details.items() if group in of)
            detail = f"lost by number: {words}" if words else ""
            yield unpaired(of_single, multi[group][0], group, cells.task, count, detail)


def _losses(cells: TaskCells, metric: str) -> dict[str, tuple[Floats, int]]:
    """{group: the loss by document, averaged over the group's cells, and their number}."""
    by_press = differences(Measure(cells, metric, 1), full_pairs(cells))
    losses = {press: (-averaged(of_press), len(of_press)) for press, of_press in by_press.items()}
    if not losses:
        return {}
    every = averaged([values for values, _ in losses.values()])
    return {ALL: (every, sum(count for _, count in losses.values())), **losses}


def _numbers(cells: TaskCells) -> list[int]:
    names = {name for table in cells.tables.values() for name in table}
    return sorted(int(match[1]) for match in (re.fullmatch(r"acc_n(\d+)", name) for name in names) if match)


def unpaired(single: Floats, multi: Floats, group: str, task: str, cells: int = 1, detail: str = "") -> Contrast:
    """mean(multi) − mean(single), of values ``[documents]`` that are NaN for prompts of the other kind; at least two of
    each.

    p: Welch's t-test, since the two are different documents; interval: bootstrap over documents.
    """
    from scipy import stats

    first, second = (values[~np.isnan(values)] for values in (single, multi))
    errors = first.var(ddof=1) / len(first) + second.var(ddof=1) / len(second)
    estimate = float(second.mean() - first.mean())
    summary = [number for of in (second, first) for number in (of.mean(), of.std(ddof=1), len(of))]
    p = float(stats.ttest_ind_from_stats(*summary, equal_var=False).pvalue) if errors > 0 else 1.0
    resampled = resampled_means(np.stack([single, multi], axis=1), RESAMPLES)
    gaps = resampled[:, 1] - resampled[:, 0]
    low, high = interval(gaps[~np.isnan(gaps)])
    documents = len(first) + len(second)
    return Contrast(
        *(group, task, " − ".join(reversed(_KINDS)), cells, documents, estimate, float(low), float(high), p),
        variance=float(errors * documents),
        differing=int((first != 0).sum() + (second != 0).sum()),
        detail=detail,
    )
