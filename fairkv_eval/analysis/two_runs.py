"""Two runs over the same documents, compared document by document."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairkv_eval.analysis.paired import Difference, differences, holm
from fairkv_eval.errors import UsageError, naming
from fairkv_eval.results.published_results import published_in
from fairkv_eval.results.record import Record, direction
from fairkv_eval.results.result_file import parse
from fairkv_eval.results.selection import differing, main_metric

ByDocument = Mapping[str, Mapping[str, float]]  # {document: {metric: value}}
Pair = tuple[Record, str, list[float], list[float]]  # a's record, a metric, and both runs' values of it


@dataclass(frozen=True)
class MetricComparison:
    """One metric of one task: both runs' values, and b − a over the documents that have it.

    ``corrected``: the p-value, corrected (Holm) for all metrics compared; None for a metric without a direction, such
    as bytes, whose difference is described and not tested.
    """

    task: str
    metric: str
    higher_is_better: bool | None
    a: float
    b: float
    difference: Difference
    corrected: float | None


@dataclass(frozen=True)
class Comparison:
    """Two runs, named by their policies. ``rows``: each task's main metric first.

    ``notes``: what was not compared, and what else differs between the runs.
    """

    a: str
    b: str
    rows: list[MetricComparison]
    notes: list[str]


def compare(a: Path, b: Path) -> Comparison:
    """Compare every metric that two result files share, task by task.

    Raise UsageError, with the file and the reason, for a file that is not a result, no common task, and a task with
    other documents, of another version or without samples.
    """
    first, second = (_records(path) for path in (a, b))
    shared = [task for task in first if task in second]
    if not shared:
        raise UsageError(f"{a} and {b} have no task in common: {', '.join(first)} and {', '.join(second)}")
    notes = [
        f"{task}: only in {path}"
        for path, mine, other in ((a, first, second), (b, second, first))
        for task in mine
        if task not in other
    ]
    pairs: list[Pair] = []
    for task in shared:
        of_task, remarks = _pairs(first[task], second[task])
        pairs += of_task
        notes += [f"{task}: {remark}" for remark in remarks]
    labels = [next(iter(records.values())).policy.label for records in (first, second)]
    foremost = {(task, main_metric(first[task])) for task in shared}
    return Comparison(labels[0], labels[1], _main_first(_rows(pairs), foremost), notes)


def plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values for JSON, with null for an interval that does not exist."""
    return {
        "a": comparison.a,
        "b": comparison.b,
        "rows": [
            {
                **{name: getattr(row, name) for name in ("task", "metric", "higher_is_better", "a", "b")},
                "n": row.difference.n,
                "difference": row.difference.mean,
                **{name: _finite(getattr(row.difference, name)) for name in ("low", "high")},
                "p": row.difference.p if row.corrected is not None else None,
                "corrected_p": row.corrected,
            }
            for row in comparison.rows
        ],
        "notes": comparison.notes,
    }


def _records(path: Path) -> dict[str, Record]:
    if not path.is_file() and published_in(path) is None:
        raise UsageError(f"no such file: {str(path)!r}; compare takes two result files")
    with naming(str(path)):
        records = parse(path)
    if not records:
        raise UsageError(f"{path} holds no result; compare takes two result files")
    by_task = {record.task: record for record in records}
    if len(by_task) < len(records):
        raise UsageError(f"{path} holds {len(records)} results; name one by its path, such as {records[0].path}")
    return by_task


def _pairs(a: Record, b: Record) -> tuple[list[Pair], list[str]]:
    """Both runs' values of each metric of a task, and notes on what cannot be compared."""
    samples = _samples(a, b)
    differences = differing(a, b)
    notes = [f"the runs also differ in {differences}"] * bool(differences)
    pairs = []
    for metric in a.metrics:
        both = _both(*samples, metric)
        if metric in b.metrics and direction(a, metric) is not direction(b, metric):
            notes.append(f"{metric} has another better direction in the second")
        elif both:
            pairs.append((a, metric, *both))
        elif metric in b.metrics:
            notes.append(f"{metric} is not a mean over documents, so it has no paired difference")
    alone = sorted(set(a.metrics) ^ set(b.metrics))
    return pairs, notes + [f"only in one of them: {', '.join(alone)}"] * bool(alone)


def _samples(a: Record, b: Record) -> tuple[ByDocument, ByDocument]:
    """Both runs' samples, which must be of the same documents."""
    if a.version != b.version:
        raise UsageError(f"task {a.task} is of version {a.version} in {a.path.name}, of {b.version} in {b.path.name}")
    for record in (a, b):
        if record.sample_source is None:
            raise UsageError(f"{record.path.name}: no samples of task {a.task} beside it; run with --log_samples")
    first, second = a.samples(), b.samples()
    if set(first) != set(second):
        common = len(set(first) & set(second))
        raise UsageError(
            f"task {a.task} is on other documents: {len(first)} in {a.path.name}, {len(second)} in {b.path.name}, "
            f"{common} in both"
        )
    return first, second


def _both(a: ByDocument, b: ByDocument, metric: str) -> tuple[list[float], list[float]] | None:
    """A metric's values in both runs, over the documents to which it applies in both; None for no document."""
    documents = [document for document in a if metric in a[document] and metric in b[document]]
    return ([a[d][metric] for d in documents], [b[d][metric] for d in documents]) if documents else None


def _rows(pairs: list[Pair]) -> list[MetricComparison]:
    tests = differences([(b, a) for _, _, a, b in pairs])
    directions = [direction(record, metric) for record, metric, _, _ in pairs]
    directed = [i for i, better in enumerate(directions) if better is not None]
    corrected = dict(zip(directed, holm([tests[i].p for i in directed]), strict=True))
    return [
        MetricComparison(
            record.task, metric, directions[i], sum(a) / len(a), sum(b) / len(b), tests[i], corrected.get(i)
        )
        for i, (record, metric, a, b) in enumerate(pairs)
    ]


def _main_first(rows: list[MetricComparison], foremost: Collection[tuple[str, str | None]]) -> list[MetricComparison]:
    """The rows with each task's main metric first, then the others that have a direction."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    return sorted(
        rows,
        key=lambda row: (tasks.index(row.task), (row.task, row.metric) not in foremost, row.higher_is_better is None),
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
