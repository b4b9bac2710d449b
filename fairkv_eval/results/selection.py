"""The results that answer one question: of which model, tasks and metrics, and against which full cache."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.results.reader import Records, read
from fairkv_eval.results.record import IDENTITY, Record, direction
from fairkv_eval.results.recorded_policy import RecordedPolicy

# The metrics that the pitfalls paper draws (arXiv 2510.00231), and the first of the harness's own tables.
_FIRST = ("prompt_level_strict_acc", "rougeL_recall_directive", "acc")


def selected(paths: str | Path | Iterable[str | Path], model: str | None = None, tasks: Sequence[str] = ()) -> Records:
    """The results in these files and folders that are of this model and these tasks (default: all).

    Raise UsageError if there are none at all, or none of a model or task, with the nearest name that has some.
    """
    records, problems = read(paths)
    if not records:
        left_out = (
            f" ({len(problems)} left out, the first: {problems[0].path.name}: {problems[0].reason})" if problems else ""
        )
        names = paths if isinstance(paths, (str, Path)) else ", ".join(map(str, paths))
        raise UsageError(f"no results found in {names}{left_out}")
    _check("model with results", [model] if model else [], {record.model for record in records})
    records = [record for record in records if model in (None, record.model)]
    _check("task with results", tasks, {record.task for record in records})
    records = [record for record in records if not tasks or record.task in tasks]
    return Records(records, [problem for problem in problems if model is None or problem.model in (None, model)])


def of_policies(records: Iterable[Record], presses: Sequence[str] = (), ratios: Sequence[float] = ()) -> list[Record]:
    """The results of these presses at these ratios (default: all), and those of the full cache.

    A policy whose amount is a budget or bytes has no ratio. Raise UsageError for a press or ratio that no result has.
    """
    records = list(records)
    evicting = [record.policy for record in records if record.policy.evicts]
    _check("press with results", presses, {policy.press for policy in evicting})
    _check_ratios(ratios, {policy.ratio for policy in evicting if policy.amount == "ratio"})
    return [record for record in records if record.policy.full or _is_of(record.policy, presses, ratios)]


def one_run(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The records of each task. Raise UsageError with the difference if those of a task cannot be compared."""
    models = sorted({record.model for record in records})
    if len(models) > 1:
        raise UsageError(f"results of several models; name one with --model: {', '.join(models)}")
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    for task, members in by_task.items():
        others = next((r for r in members if r.run != members[0].run), None)
        if others is not None:
            first, what = members[0], differing(members[0], others)
            raise UsageError(
                f"task {task}: {first.path.name} and {others.path.name} cannot be compared, they differ in {what}; "
                "keep them in folders of their own"
            )
    return by_task


def differing(a: Record, b: Record) -> str:
    """What differs between two results of a task besides the policy, with both values; "" if nothing does."""
    there, here = (
        {"model": r.model, "weights": r.model_sha, "version": r.version, **dict(r.conditions)} for r in (a, b)
    )
    if there.get(IDENTITY) and here.get(IDENTITY):
        there, here = {**there, **_identity(a)}, {**here, **_identity(b)}
    names = dict.fromkeys(name for name in (*there, *here) if name != IDENTITY and there.get(name) != here.get(name))
    return ", ".join(f"{name} ({there.get(name)!r} and {here.get(name)!r})" for name in names)


def _identity(record: Record) -> dict[str, Any]:
    """The parts of a model's identity that say more than its digest."""
    identity = (record.arguments.get("fairkv") or {}).get("identity") or {}
    return {f"model's {name}": value for name, value in identity.items() if name != "sha256"}


def full_cache(records: Sequence[Record]) -> Record:
    """The result with nothing evicted, with which others are compared: with samples and without a press if possible.

    Raise UsageError if there is none.
    """
    full = sorted(
        (r for r in records if r.policy.full), key=lambda r: (r.sample_source is None, r.policy.press != "none")
    )
    if not full:
        raise UsageError(
            f"task {records[0].task} has no result of the full cache to compare with; run it once with ratio=0, "
            "on the same documents"
        )
    return full[0]


def directed(record: Record) -> list[str]:
    """The metrics with a better direction, in the task's order."""
    return [name for name in record.metrics if direction(record, name) is not None]


def main_metric(record: Record) -> str | None:
    """The task's main metric."""
    return foremost(directed(record))


def foremost(directed: Sequence[str]) -> str | None:
    """The first of these metrics that the paper draws, or accuracy, or the first of all. They have a direction."""
    names = [name for name in directed if not name.startswith("fidelity_")]
    return next((name for name in (*_FIRST, *names) if name in names), None)


def metric_of(record: Record, name: str | None) -> str:
    """The metric of this name, or the task's main one. Raise UsageError for an unknown one or one without direction."""
    chosen = main_metric(record) if name is None else name
    names = directed(record)
    if chosen is None or chosen not in names:
        raise unknown(f"metric of task {record.task}", name or "", names)
    return chosen


def values(record: Record, metric: str) -> dict[str, float]:
    """{document: value} of a metric. Raise UsageError if the run logged no samples, or they lack the metric."""
    if record.sample_source is None:
        raise UsageError(f"{record.path.name}: no samples of task {record.task} beside it; run with --log_samples")
    scores = {document: metrics[metric] for document, metrics in record.samples().items() if metric in metrics}
    if not scores:
        raise UsageError(f"{record.path.name}: metric {metric} of task {record.task} is not a mean over its documents")
    return scores


def _is_of(policy: RecordedPolicy, presses: Sequence[str], ratios: Sequence[float]) -> bool:
    at_ratio = policy.evicts and policy.amount == "ratio" and policy.ratio in ratios
    return (not presses or policy.press in presses) and (not ratios or at_ratio)


def _check_ratios(ratios: Iterable[float], present: set[float]) -> None:
    for ratio in ratios:
        if ratio not in present:
            there = ", ".join(f"{of:g}" for of in sorted(present)) or "none"
            raise UsageError(f"no results at ratio {ratio:g}; there are results at: {there}")


def _check(what: str, names: Iterable[str], allowed: set[str]) -> None:
    for name in names:
        if name not in allowed:
            raise unknown(what, name, allowed)
