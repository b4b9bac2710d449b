"""Fairness between classes of instructions: the worst class, the spread, and both relative to the full cache.

A scored document is a dict: class -> the share of its instructions of that class that the response followed. A class
accuracy is the mean over the documents that hold the class, as the harness's own `acc_<class>` is.

The spread of a run is its best class accuracy minus its worst. Some classes are hard with the full cache, too, so the
relative spread divides each class accuracy by its value at ratio 0 first: 0 means that compression took the same share
of every class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Scores = Mapping[str, float]  # class -> accuracy, of a document or of a run
Rows = NDArray[np.float64]  # [documents, classes], NaN where a document lacks the class

RESAMPLES = 1000


def by_class(instruction_ids: Sequence[str], followed: Sequence[bool]) -> dict[str, float]:
    """One document's share of followed instructions of each class, the part of an id before the colon."""
    groups: dict[str, list[bool]] = {}
    for instruction_id, ok in zip(instruction_ids, followed, strict=True):
        groups.setdefault(instruction_id.partition(":")[0], []).append(bool(ok))
    return {name: sum(oks) / len(oks) for name, oks in groups.items()}


def accuracies(docs: Sequence[Scores]) -> dict[str, float]:
    """The accuracy of each class over the documents that hold it."""
    names = _names(docs)
    return dict(zip(names, map(float, _means(_rows(docs, names))), strict=True))


def worst(scores: Scores) -> float:
    """The lowest class accuracy; NaN where there is no class."""
    return min(scores.values(), default=math.nan)


def spread(scores: Scores) -> float:
    """The highest class accuracy minus the lowest; NaN where there is no class."""
    return max(scores.values()) - min(scores.values()) if scores else math.nan


def relative(scores: Scores, reference: Scores) -> dict[str, float]:
    """Each class accuracy divided by its value at ratio 0. A class that is 0 there, or was not asked, is left out: what
    the full cache does not follow, compression cannot take away."""
    return {name: score / reference[name] for name, score in scores.items() if reference.get(name, 0.0) > 0.0}


def relative_spread(scores: Scores, reference: Scores) -> float:
    """The spread of `relative`; NaN where fewer than two classes can be compared."""
    ratios = relative(scores, reference)
    return spread(ratios) if len(ratios) > 1 else math.nan


def worst_stderr(docs: Sequence[Scores], resamples: int = RESAMPLES) -> float:
    """Standard error of `worst` by bootstrap over documents; NaN for fewer than two."""
    return _bootstrap([docs], lambda runs: _lowest(runs[0]), resamples)


def spread_stderr(docs: Sequence[Scores], resamples: int = RESAMPLES) -> float:
    """Standard error of `spread` by bootstrap over documents; NaN for fewer than two."""
    return _bootstrap([docs], lambda runs: _highest(runs[0]) - _lowest(runs[0]), resamples)


def relative_spread_stderr(docs: Sequence[Scores], reference: Sequence[Scores], resamples: int = RESAMPLES) -> float:
    """Standard error of `relative_spread` by paired bootstrap: both runs hold the same documents in the same order,
    and each resample draws the same ones of both. A class that is nearly 0 at ratio 0 makes the error large and its
    estimate rough. Raises ValueError where their numbers differ."""
    if len(docs) != len(reference):
        raise ValueError(f"a paired bootstrap needs the same documents, got {len(docs)} and {len(reference)}")

    def statistic(runs: list[Rows]) -> Rows:
        full = np.where(runs[1] > 0, runs[1], np.nan)
        ratios = runs[0] / full
        few = np.sum(~np.isnan(ratios), axis=-1) < 2
        return np.where(few, np.nan, _highest(ratios) - _lowest(ratios))

    return _bootstrap([docs, reference], statistic, resamples)


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


def _rows(docs: Sequence[Scores], names: Sequence[str]) -> Rows:
    return np.array([[doc.get(name, math.nan) for name in names] for doc in docs], dtype=np.float64)


def _means(rows: Rows) -> Rows:
    """Class accuracies, ``[..., documents, classes]`` -> ``[..., classes]``; NaN where no document holds a class."""
    held = np.sum(~np.isnan(rows), axis=-2)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(rows, axis=-2) / np.where(held, held, np.nan))


def _lowest(scores: Rows) -> Rows:
    return np.asarray(np.fmin.reduce(scores, axis=-1))


def _highest(scores: Rows) -> Rows:
    return np.asarray(np.fmax.reduce(scores, axis=-1))


def _bootstrap(runs: Sequence[Sequence[Scores]], statistic: Callable[[list[Rows]], Rows], resamples: int) -> float:
    """Standard deviation of a statistic of class accuracies ``[resamples, classes]`` of each run, over resamples of
    documents that are the same for all runs. The draws are always the same."""
    count = len(runs[0])
    if count < 2:
        return math.nan
    names = sorted({name for docs in runs for name in _names(docs)})
    drawn = np.random.default_rng(0).integers(count, size=(resamples, count))
    values = statistic([_means(_rows(docs, names)[drawn]) for docs in runs])
    values = values[~np.isnan(values)]
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
