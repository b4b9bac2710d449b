"""Finding 1: classes of instructions degrade at different rates.

A class's loss is the full cache's accuracy minus the policy's, on the documents that have an instruction of it. The
spread is the standard deviation of the losses of classes, each weighed by its documents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from fairkv_eval.bootstrap import ENDS, Floats, resampled_means
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import ALL, Contrast, averaged
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import LOSSES_NEED, Measure, classes_of, tasks
from fairkv_eval.findings.twins import claim, differences, full_pairs

RESAMPLES = 2000
FEWEST = 10  # documents of a class; fewer give no spread to compare with


def class_rates(model: ModelCells) -> Finding:
    rows = [row for cells in tasks(model, flipped=False) for row in _rows(cells)]
    return Finding(
        "classes",
        "Classes of instructions degrade at different rates",
        "classes of instructions degrade at different rates",
        (claim("spread of the loss (full cache − plain) between classes", LOSSES_NEED, rows),),
    )


def _rows(cells: TaskCells) -> Iterator[Contrast]:
    classes = _comparable(cells)
    by_class = [differences(Measure(cells, f"acc_{name}", 1), full_pairs(cells)) for name in classes]
    if len(classes) < 2 or not all(by_class):
        return
    counts = {press: len(by_class[0][press]) for press in by_class[0] if all(press in of for of in by_class)}
    if not counts:
        return
    losses = {press: np.stack([-averaged(of[press]) for of in by_class], axis=1) for press in counts}
    losses, counts = {ALL: averaged(list(losses.values())), **losses}, {ALL: sum(counts.values()), **counts}
    for group, of_group in losses.items():
        if ((~np.isnan(of_group)).sum(axis=0) >= FEWEST).all():
            yield spread(of_group, classes, group, cells.task, counts[group])


def _comparable(cells: TaskCells) -> list[str]:
    """The classes with enough documents that the full cache follows at all, so that there is something to lose."""
    if cells.full is None:
        return []
    values = {name: cells.values(cells.full, f"acc_{name}") for name in classes_of(cells)}
    followed = {name: of for name, of in values.items() if of is not None and np.nansum(of) > 0}
    return [name for name, of in followed.items() if (~np.isnan(of)).sum() >= FEWEST]


def spread(losses: Floats, classes: Sequence[str], group: str, task: str, cells: int = 1) -> Contrast:
    """The spread between the classes' mean losses, losses ``[documents, classes]`` with NaN for a class that a document
    does not have; at least two documents have each.

    Chance alone spreads the means too, so that much (the noise) is taken off the square. p: the share of resamples,
    centred so that all classes lose the same, with at least the observed spread. Interval: of the spreads under which
    the observed one is among neither the largest nor the smallest 2.5 % (see `_interval`).
    """
    counts = (~np.isnan(losses)).sum(axis=0)
    means = np.nanmean(losses, axis=0)
    resampled = resampled_means(losses, RESAMPLES)
    resampled = resampled[~np.isnan(resampled).any(axis=1)]
    deviations = (resampled - means) * np.sqrt(counts / (counts - 1))
    chance = _square(deviations, counts)
    observed, noise = float(_square(means[None], counts)[0]), float(chance.mean())
    low, high = _interval(means, deviations, counts)
    present = losses[~np.isnan(losses).all(axis=1)]
    return Contrast(
        *(group, task, "acc_<class>", cells, len(present)),
        estimate=float(np.sqrt(max(0.0, observed - noise))),
        low=low,
        high=high,
        p=float((1 + (chance >= observed - 1e-15).sum()) / (1 + len(chance))),
        variance=noise * len(present),
        differing=int((np.abs(np.nan_to_num(present)) > 1e-12).any(axis=1).sum()),
        degrees=len(classes) - 1,
        detail=_losses_in_words(dict(zip(classes, means.tolist(), strict=True))),
    )


def _interval(means: Floats, deviations: Floats, counts: Floats) -> tuple[float, float]:
    """The ends of the interval of the spread of means ``[classes]``; deviations by chance ``[resamples, classes]``.

    The observed means, made larger or smaller by one factor, stand for all spreads. An observed spread below what
    chance makes counts as that.
    """
    observed = float(_square(means[None], counts)[0])
    expected = max(observed, float(_square(deviations, counts).mean()))

    def share_below(factor: float, edge: float) -> float:
        return float((_square(factor * means + deviations, counts) < edge).mean())

    if not observed:
        return 0.0, 0.0
    largest = 1 + 10 * np.sqrt(expected / observed)
    low = _first(lambda factor: share_below(factor, observed - 1e-15) <= ENDS[1], largest)
    high = _first(lambda factor: share_below(factor, expected + 1e-15) <= ENDS[0], largest)
    return low * float(np.sqrt(observed)), high * float(np.sqrt(observed))


def _first(holds: Callable[[float], bool], largest: float) -> float:
    """The smallest factor from 0 to the largest from which on a condition holds, by bisection."""
    if holds(0.0):
        return 0.0
    low, high = 0.0, float(largest)
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _square(means: Floats, counts: Floats) -> Floats:
    """The variance between the classes of each row ``[rows, classes]``, weighed by the documents of each class."""
    shares = counts / counts.sum()
    centred = means - (means @ shares)[:, None]
    square: Floats = centred**2 @ shares
    return square


def _losses_in_words(losses: Mapping[str, float]) -> str:
    most_first = sorted(losses, key=lambda name: -losses[name])
    return "lost: " + ", ".join(f"{name} {losses[name]:+.3f}" for name in most_first)
