"""What figures show: results arranged into lines over the ratio, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from fairkv_eval import bootstrap
from fairkv_eval.bootstrap import Floats
from fairkv_eval.instruction_classes import CLASSES
from fairkv_eval.metrics.fairness import relative_spread
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy

RESAMPLES = 500
_ENDS = (0.025, 0.975)  # not bootstrap.ENDS: its last bit differs, and published figures would be drawn anew
_Z = 1.96  # standard errors on either side of a 95 % interval
_SHARES = ("acc", "prompt_level_", "inst_level_", "rouge", "leak@", "keep_rate", "refusal")

Point = tuple[float, float | None, float | None]  # value and its interval


@dataclass(frozen=True)
class Series:
    """A line with markers. ``style``: its colour and marker; ``variant``: 0 is solid, others are broken lines."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    style: int
    variant: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``level``: a horizontal line to read against; ``behind``: points (x, y) drawn in grey;
    ``linear_to``: above this value the y axis is logarithmic."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    level: float | None = None
    behind: tuple[tuple[float, float], ...] = ()
    linear_to: float | None = None


@dataclass(frozen=True)
class Figure:
    """Panels under one title; ``name`` is the file's, without its ending."""

    name: str
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Task:
    """One task's results, all comparable: the full cache, and for each press and setting its records by ratio."""

    name: str
    full: Record | None
    lines: Mapping[RecordedPolicy, tuple[Record, ...]]
    _samples: dict[Path, dict[str, dict[str, float]]] = field(default_factory=dict, compare=False, repr=False)

    def plain(self) -> list[RecordedPolicy]:
        return [line for line in self.lines if not line.fair and not line.keep]

    def metrics(self) -> set[str]:
        return {name for records in self.lines.values() for record in records for name in record.metrics}

    @cached_property
    def classes(self) -> list[str]:
        """The instruction classes it measures; [] where there are fewer than two, so that nothing can be compared."""
        found = [name for name in CLASSES if f"acc_{name}" in self.metrics()]
        return found if len(found) > 1 else []

    def documents(self, record: Record, metrics: Sequence[str]) -> Floats | None:
        """Values [documents, metrics] of a record, nan where a metric does not apply; None without logged samples."""
        if record.sample_file() is None:
            return None
        if record.path not in self._samples:
            self._samples[record.path] = record.samples()
        given = self._samples[record.path]
        return np.asarray([[given[d].get(m, np.nan) for m in metrics] for d in sorted(given)], dtype=float)


@dataclass(frozen=True)
class Results:
    """One model's results, task by task; ``styles``: each press's colour and marker, the same in every figure."""

    model: str
    tasks: tuple[Task, ...]
    styles: Mapping[str, int]


def arrange(records: Iterable[Record]) -> tuple[list[Results], list[str]]:
    """The results of each model, and what no figure can show: budgets in place of ratios, and other runs of a task."""
    left_out: list[str] = []
    by_model: dict[str, dict[str, dict[tuple, list[Record]]]] = {}
    for record in records:
        if record.policy.budget is not None or record.policy.decode_budget is not None:
            left_out.append(f"{record.path.name}: {record.policy.label} has no ratio to be drawn over")
            continue
        by_model.setdefault(record.model, {}).setdefault(record.task, {}).setdefault(record.run, []).append(record)
    found = []
    for model, tasks in sorted(by_model.items()):
        arranged = []
        for task, runs in sorted(tasks.items()):
            chosen = max(runs.values(), key=len)
            others = [record for members in runs.values() if members is not chosen for record in members]
            left_out += [f"{r.path.name}: task {task} under other conditions than most of its results" for r in others]
            arranged.append(_task(task, chosen))
        presses = sorted({line.name for task in arranged for line in task.lines})
        found.append(Results(model, tuple(arranged), {press: index for index, press in enumerate(presses)}))
    return found, left_out


def labels(lines: Iterable[RecordedPolicy]) -> dict[RecordedPolicy, str]:
    """Short names that tell these lines apart: the press alone where that does."""
    lines = list(lines)
    short = {line: line.press for line in lines}
    named = {line: short[line] if _alone(short, line) else line.name for line in lines}
    return {line: " ".join([name, *line.settings()]) for line, name in named.items()}


def measured(record: Record, metric: str) -> Point | None:
    """A metric's value with its interval from the harness's standard error; None where the record lacks it."""
    found = record.metrics.get(metric)
    if found is None or not np.isfinite(found.value):
        return None
    if found.stderr is None or not np.isfinite(found.stderr):
        return found.value, None, None
    low, high = found.value - _Z * found.stderr, found.value + _Z * found.stderr
    # Close to their ends the normal interval leaves what shares can be.
    share = metric.startswith(_SHARES)
    return found.value, max(low, 0.0) if share else low, min(high, 1.0) if share else high


def relative(task: Task, record: Record, metric: str) -> Point | None:
    """A metric divided by the full cache's, with a paired bootstrap interval where both runs logged samples."""
    if task.full is None or metric not in record.metrics or metric not in task.full.metrics:
        return None
    whole = task.full.metrics[metric].value
    if not whole:
        return None
    value = record.metrics[metric].value / whole
    means, full = _resampled(task, record, (metric,)), _resampled(task, task.full, (metric,))
    if means is None or full is None or means.shape != full.shape:
        return value, None, None
    return value, *_interval(np.divide(means, full, out=np.full_like(means, np.nan), where=full > 0)[:, 0])


def rank_correlation(task: Task, record: Record) -> Point | None:
    """Spearman correlation of the classes' accuracies with those of the full cache."""
    if task.full is None:
        return None
    names = [f"acc_{name}" for name in task.classes]
    if not all(name in r.metrics for r in (record, task.full) for name in names):
        return None
    a, b = (np.asarray([[r.metrics[name].value for name in names]]) for r in (record, task.full))
    drawn = _resampled(task, record, names), _resampled(task, task.full, names)
    return _correlated(a, b, *drawn)


def single_with_multi(task: Task, record: Record) -> Point | None:
    """Spearman correlation of the classes' accuracies in prompts with one instruction and with several."""
    names = [f"acc_{name}" for name in task.classes]
    values = task.documents(record, [*names, "acc_single"])
    if values is None:
        return None
    single = ~np.isnan(values[:, -1])
    alone, together = (np.where(rows[:, None], values[:, :-1], np.nan) for rows in (single, ~single))
    both = ~(np.isnan(alone).all(axis=0) | np.isnan(together).all(axis=0))
    if both.sum() < 3:
        return None
    parts = alone[:, both], together[:, both]
    whole = np.full((1, len(values)), 1 / len(values))
    means = (bootstrap.weighted_means(whole, part) for part in parts)
    return _correlated(*means, *(bootstrap.resampled_means(part, RESAMPLES) for part in parts))


def spread(task: Task, record: Record) -> tuple[float, float] | None:
    """(mean accuracy over the classes, best minus worst class), each class divided by its full-cache value in the
    second; classes that the full cache never follows are left out of both."""
    if task.full is None:
        return None
    names = [f"acc_{name}" for name in task.classes]
    if not all(name in r.metrics for r in (record, task.full) for name in names):
        return None
    scores, reference = ({name: r.metrics[name].value for name in names} for r in (record, task.full))
    followed = [score for name, score in scores.items() if reference[name] > 0]
    return (float(np.mean(followed)), relative_spread(scores, reference)) if len(followed) > 1 else None


def series(
    label: str,
    records: Iterable[Record],
    point: Callable[[Record], Point | None],
    style: int,
    variant: int = 0,
    at: Callable[[Record], float | None] = lambda record: record.policy.ratio,
) -> Series | None:
    """The line through what ``point`` says of each record, at the ratio; None where it says nothing of any."""
    found = [(x, told) for r in records if (x := at(r)) is not None and (told := point(r)) is not None]
    if not found:
        return None
    xs, points = zip(*found, strict=True)
    values, lows, highs = zip(*points, strict=True)
    return Series(label, xs, values, lows, highs, style, variant)


def _task(name: str, records: Sequence[Record]) -> Task:
    """Every line starts at the full cache, whichever run measured it."""
    full = sorted((r for r in records if r.policy.full), key=lambda r: (r.policy.press != "none", r.policy.label))
    lines: dict[RecordedPolicy, dict[float, Record]] = {}
    for record in sorted(records, key=lambda r: (r.policy.name, r.policy.fair, r.policy.label, r.policy.ratio)):
        if record.policy.press != "none":
            lines.setdefault(replace(record.policy, ratio=0.0), {})[record.policy.ratio] = record
    complete = {
        line: tuple(r for _, r in sorted({**({0.0: full[0]} if full else {}), **by_ratio}.items()))
        for line, by_ratio in lines.items()
    }
    return Task(name, full[0] if full else None, {line: rs for line, rs in complete.items() if not rs[-1].policy.full})


def _alone(short: Mapping[RecordedPolicy, str], line: RecordedPolicy) -> bool:
    """Whether no other line of the press has other parameters."""
    return len({other.name for other, name in short.items() if name == line.press}) == 1


def _resampled(task: Task, record: Record, metrics: Sequence[str]) -> Floats | None:
    """Means [resamples, metrics] over resampled documents, the same ones for every record of a task."""
    values = task.documents(record, metrics)
    return None if values is None or len(values) < 2 else bootstrap.resampled_means(values, RESAMPLES)


def _correlated(a: Floats, b: Floats, drawn_a: Floats | None, drawn_b: Floats | None) -> Point | None:
    value = float(_spearman(a, b)[0])
    if not np.isfinite(value):
        return None
    if drawn_a is None or drawn_b is None or drawn_a.shape != drawn_b.shape:
        return value, None, None
    return value, *_interval(_spearman(drawn_a, drawn_b))


def _spearman(a: Floats, b: Floats) -> Floats:
    """Spearman's correlation of each row of a and b [rows, classes]; nan where a row is constant or incomplete."""
    from scipy.stats import rankdata

    # Rounded, so that equal shares of documents are ties however they were summed.
    x, y = (rankdata(np.round(rows, 9), axis=1, nan_policy="propagate") for rows in (a, b))
    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (x, y))
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), size, out=np.full(len(x), np.nan), where=size > 0)


def _interval(drawn: Floats) -> tuple[float | None, float | None]:
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < RESAMPLES / 2:
        return None, None
    low, high = bootstrap.interval(drawn, _ENDS)
    return float(low), float(high)
