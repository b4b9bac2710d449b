"""Fairness between classes of instructions: the worst class, the spread, and both relative to the full cache.

A scored document is a dict: class -> the share of its instructions of that class that the response followed. A class
accuracy is the mean over the documents that hold the class, like the harness's own mean of `acc_<class>`.

The spread of a run is its best class accuracy minus its worst. Some classes are hard with the full cache, too, so the
relative spread first divides each class accuracy by its value at ratio 0: 0 means that compression took the same share
of every class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fairkv_eval.bootstrap import Floats, draws, standard_error
from fairkv_eval.instruction_classes import by_class

Scores = Mapping[str, float]  # class -> accuracy, of a document or of a run

RESAMPLES = 1000


def accuracies(docs: Sequence[Scores]) -> dict[str, float]:
    """The accuracy of each class over the documents that hold it."""
    names = _names(docs)
    return dict(zip(names, map(float, _means(_table(docs, names))), strict=True))


def worst_acc(docs: Sequence[Scores]) -> float:
    """The lowest class accuracy of a run; NaN without classes. An aggregation for task YAMLs."""
    return min(accuracies(docs).values(), default=math.nan)


def worst_acc_stderr(docs: Sequence[Scores], resamples: int = RESAMPLES) -> float:
    """The standard error of `worst_acc` by bootstrap over documents; NaN for fewer than two."""
    return _stderr([docs], lambda runs: _lowest(runs[0]), resamples)


def spread(docs: Sequence[Scores]) -> float:
    """The highest class accuracy of a run minus the lowest; NaN without classes. An aggregation for task YAMLs."""
    return class_spread(accuracies(docs))


def spread_stderr(docs: Sequence[Scores], resamples: int = RESAMPLES) -> float:
    """The standard error of `spread` by bootstrap over documents; NaN for fewer than two."""
    return _stderr([docs], lambda runs: _highest(runs[0]) - _lowest(runs[0]), resamples)


def class_spread(scores: Scores) -> float:
    """The highest of these class accuracies minus the lowest; NaN without classes."""
    return max(scores.values()) - min(scores.values()) if scores else math.nan


def relative(scores: Scores, reference: Scores) -> dict[str, float]:
    """Each class accuracy divided by its value at ratio 0. Classes that are 0 or missing there are left out: what the
    full cache does not follow, compression cannot take away."""
    return {name: score / reference[name] for name, score in scores.items() if reference.get(name, 0.0) > 0.0}


def relative_spread(scores: Scores, reference: Scores) -> float:
    """The spread of `relative`; NaN if fewer than two classes can be compared."""
    ratios = relative(scores, reference)
    return class_spread(ratios) if len(ratios) > 1 else math.nan


def relative_spread_stderr(docs: Sequence[Scores], reference: Sequence[Scores], resamples: int = RESAMPLES) -> float:
    """The standard error of `relative_spread` by paired bootstrap: both runs hold the same documents in the same order,
    and each resample draws the same documents of both. A class that is nearly 0 at ratio 0 makes the error large and
    its estimate rough. Raise ValueError if the runs differ in length."""
    if len(docs) != len(reference):
        raise ValueError(f"a paired bootstrap needs the same documents, got {len(docs)} and {len(reference)}")

    def statistic(runs: list[Floats]) -> Floats:
        full = np.where(runs[1] > 0, runs[1], np.nan)
        ratios = runs[0] / full
        few = np.sum(~np.isnan(ratios), axis=-1) < 2
        return np.where(few, np.nan, _highest(ratios) - _lowest(ratios))

    return _stderr([docs, reference], statistic, resamples)


def of_samples(samples: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Scored documents from a task's logged samples, in the order of their documents."""
    ordered = sorted(samples, key=lambda sample: int(sample["doc_id"]))
    return [by_class(s["doc"]["instruction_id_list"], s["inst_level_strict_acc"]) for s in ordered]


def by_position(samples: Iterable[Mapping[str, Any]]) -> dict[tuple[int, int], float]:
    """(number of instructions, position from 1) -> accuracy, from a task's logged samples."""
    groups: dict[tuple[int, int], list[bool]] = {}
    for sample in samples:
        followed = sample["inst_level_strict_acc"]
        for position, ok in enumerate(followed, 1):
            groups.setdefault((len(followed), position), []).append(bool(ok))
    return {key: sum(oks) / len(oks) for key, oks in sorted(groups.items())}


def _names(docs: Sequence[Scores]) -> list[str]:
    return sorted({name for doc in docs for name in doc})


def _table(docs: Sequence[Scores], names: Sequence[str]) -> Floats:
    """``[documents, classes]``; NaN if a document lacks the class."""
    return np.array([[doc.get(name, math.nan) for name in names] for doc in docs], dtype=np.float64)


def _means(scores: Floats) -> Floats:
    """Class accuracies, ``[..., documents, classes]`` -> ``[..., classes]``; NaN if no document holds a class."""
    holders = np.sum(~np.isnan(scores), axis=-2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(scores, axis=-2) / np.where(holders, holders, np.nan))


def _lowest(scores: Floats) -> Floats:
    return np.asarray(np.fmin.reduce(scores, axis=-1))


def _highest(scores: Floats) -> Floats:
    return np.asarray(np.fmax.reduce(scores, axis=-1))


def _stderr(runs: Sequence[Sequence[Scores]], statistic: Callable[[list[Floats]], Floats], resamples: int) -> float:
    """The standard error of a statistic of the runs' class accuracies, each ``[resamples, classes]``. Each resample
    draws the same documents of all runs."""
    if len(runs[0]) < 2:
        return math.nan
    names = sorted({name for docs in runs for name in _names(docs)})
    drawn = draws(len(runs[0]), resamples)
    return standard_error(statistic([_means(_table(docs, names)[drawn]) for docs in runs]))
