"""Results as a leaderboard: one row per model and policy, with every task's metrics, costs and paired differences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from fairkv_eval.analysis.all_runs import ALPHA, Corrected, Key, Standing, Values, standings
from fairkv_eval.errors import UsageError
from fairkv_eval.leaderboard.aspects import Aspect, aspects_of, rule, with_averages
from fairkv_eval.leaderboard.brackets import Bracket, brackets
from fairkv_eval.leaderboard.explanations import of_metric, of_task
from fairkv_eval.leaderboard.rows import CorrectedDifference, MetricEntry, Omission, Row, TaskEntry, TaskSummary, plain
from fairkv_eval.leaderboard.samples import samples_of
from fairkv_eval.results.reader import Records
from fairkv_eval.results.record import IDENTITY, Record, direction
from fairkv_eval.results.rerun import command
from fairkv_eval.results.result_file import KIND
from fairkv_eval.results.selection import foremost

# Conditions that belong to a task: how its prompts are made and answered. The others are the same for all of a row.
_OF_TASK = ("num_fewshot", "generation", "chat", "multiturn", "system_instruction", "task_config")

METHOD = (
    "Differences are paired over the same documents: mean, 95 % percentile bootstrap interval over documents, "
    "two-sided sign-flip p-value; p_corrected is Holm's over all rows' differences of that kind on the task and "
    "metric. vs_full: the row minus the full cache; vs_plain: fair minus the same policy with fair=false. A rank is "
    f"1 + how many policies of the same model are better with a corrected p below {ALPHA:g}. Policies are placed by "
    "their value, and a bracket joins the places that this test does not set apart: it ends before the first place "
    "from which on every rank is higher. stderr is the harness's. Held: measured bytes of the cache as a share of the "
    "full cache's."
)


@dataclass(frozen=True)
class Board:
    """``prompts``: {task: {document: end of its prompt}}. ``responses``: {row id: {task: [(document, response)]}}, of
    the same documents in every row. ``average``: the tasks that averages are over; () if they are over all."""

    tasks: Mapping[str, TaskSummary]
    aspects: Mapping[str, Aspect]
    rows: Sequence[Row]
    left_out: Sequence[Omission]
    prompts: Mapping[str, Mapping[str, str]]
    responses: Mapping[str, Mapping[str, Sequence[tuple[str, str]]]]
    average: Sequence[str] = ()

    @property
    def rule(self) -> str:
        """What an average is."""
        return rule(self.average)

    @cached_property
    def data(self) -> dict[str, Any]:
        """What leaderboard.json holds."""
        parts = {"tasks": self.tasks, "aspects": self.aspects, "rows": self.rows, "left_out": self.left_out}
        return {"kind": KIND, "method": METHOD, "rule": self.rule, **plain(parts)}


def build(results: Records, top: Path | None = None, average: Sequence[str] = ()) -> Board:
    """The leaderboard of these results, with files named relative to ``top``. ``average``: the tasks that averages are
    over, by default all. Raise UsageError for no results, and for such a task without any."""
    if not results.records:
        reasons = "; ".join(f"{_file(path, top)}: {reason}" for path, reason, _ in results.problems[:3])
        raise UsageError(f"no result of the harness was found{f' ({reasons})' if reasons else ''}")
    records = sorted(results.records, key=_order)
    values, shown, problems = samples_of(records)
    standing = standings(records, values)
    joined = brackets(records, standing)
    entries = [
        _entry(record, _metrics(index, record, values[index], standing, joined), top)
        for index, record in enumerate(records)
    ]
    tasks = _tasks(records)
    named = [(record.task, entry) for record, entry in zip(records, entries, strict=True)]
    aspects = aspects_of(tasks, named, average)
    ids = _row_ids(records)
    prompts: dict[str, dict[str, str]] = {}
    responses: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for row_id, record, texts in zip(ids, records, shown, strict=True):
        prompts.setdefault(record.task, {}).update({document: prompt for document, prompt, _ in texts})
        if texts:
            responses.setdefault(row_id, {})[record.task] = [(document, response) for document, _, response in texts]
    left_out = [Omission(_file(path, top), reason) for path, reason, _ in (*results.problems, *problems)]
    rows = with_averages(_rows(ids, records, entries), aspects, tasks)
    return Board(tasks, aspects, rows, left_out, prompts, responses, tuple(task for task in tasks if task in average))


def dumped(board: Board) -> str:
    """leaderboard.json, with one line per row."""

    def on_one_line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    parts = [f'"{name}": {on_one_line(value)}' for name, value in board.data.items() if name != "rows"]
    rows = ",\n  ".join(on_one_line(row) for row in board.data["rows"])
    return "{\n" + ",\n".join([*parts, f'"rows": [\n  {rows}\n]']) + "\n}\n"


def _order(record: Record) -> tuple[Any, ...]:
    policy = record.policy
    return (
        *(record.model, record.model_sha or "", record.source, str(record.conditions), policy.press != "none"),
        *(
            policy.name,
            policy.fair,
            policy.ratio,
            policy.budget or 0,
            str(policy.budget_bytes or ""),
            str(policy),
            record.task,
        ),
    )


def _row_ids(records: Sequence[Record]) -> list[str]:
    """An id for each record: equal for one model, policy and conditions, as long as the tasks differ. How the prompts
    of a full cache are divided makes no difference to it."""
    numbers: dict[Any, int] = {}
    used: set[tuple[Any, str]] = set()
    ids = []
    for record in records:
        general = tuple(pair for pair in record.conditions if pair[0] not in _OF_TASK)
        variant = 0
        policy = replace(record.policy, segments=None, scope=None) if record.policy.full else record.policy
        key: Any = (record.model, record.model_sha, record.source, policy, general, variant)
        while (key, record.task) in used:
            variant += 1
            key = (*key[:-1], variant)
        used.add((key, record.task))
        ids.append(f"r{numbers.setdefault(key, len(numbers) + 1)}")
    return ids


def _rows(ids: Sequence[str], records: Sequence[Record], entries: Sequence[TaskEntry]) -> list[Row]:
    members: dict[str, list[int]] = {}
    for index, row_id in enumerate(ids):
        members.setdefault(row_id, []).append(index)
    variants = _variants({row_id: [records[index] for index in indices] for row_id, indices in members.items()})
    return [
        _row(row_id, records[indices[0]], variants[row_id], {records[i].task: entries[i] for i in indices})
        for row_id, indices in members.items()
    ]


def _row(row_id: str, record: Record, variant: str, tasks: Mapping[str, TaskEntry]) -> Row:
    policy = record.policy
    return Row(
        id=row_id,
        model=record.model,
        model_sha=record.model_sha,
        source=record.source,
        policy=policy.label,
        variant=variant,
        press_name=policy.name,
        settings=list(policy.settings()),
        described={key: value for key, value in policy.describe().items() if key != "press_sha256"},
        segments=policy.segments,
        scope=policy.scope,
        full_cache=policy.full,
        conditions=_conditions(record, of_task=False),
        held=_mean([entry.held for entry in tasks.values() if entry.held is not None]),
        averages={},
        tasks=tasks,
    )


def _conditions(record: Record, of_task: bool) -> dict[str, Any]:
    return {name: value for name, value in record.conditions if (name in _OF_TASK) == of_task}


def _variants(members: Mapping[str, Sequence[Record]]) -> dict[str, str]:
    """{row id: its conditions that other rows of the same model and policy do not share}, given the records of each.

    Conditions of a task count if several of these rows have the task.
    """
    variants = {}
    alike: dict[tuple[str, str], list[str]] = {}
    for row_id, records in members.items():
        alike.setdefault((records[0].model, records[0].policy.label), []).append(row_id)
    for ids in alike.values():
        rows = Counter(record.task for row_id in ids for record in members[row_id])
        conditions = {row_id: _all_conditions(members[row_id], rows) for row_id in ids}
        names = dict.fromkeys(name for of_row in conditions.values() for name in of_row)
        differing = [name for name in names if len({str(of_row.get(name)) for of_row in conditions.values()}) > 1]
        telling = [name for name in differing if name != IDENTITY]
        if len({tuple(str(of_row.get(name)) for name in telling) for of_row in conditions.values()}) == len(ids):
            differing = telling  # a digest says nothing that these do not
        for row_id, of_row in conditions.items():
            variants[row_id] = ", ".join(f"{name}={of_row.get(name)}" for name in differing)
    return variants


def _all_conditions(records: Sequence[Record], rows: Mapping[str, int]) -> dict[str, Any]:
    """The conditions of a row, those of its tasks if several rows have them (``rows``: their number by task)."""
    weights = (records[0].model_sha or "")[:9]
    shared = [_conditions(record, of_task=True) for record in records if rows[record.task] > 1]
    of_tasks = {
        name: " ".join(dict.fromkeys(str(of_task.get(name)) for of_task in shared))
        for name in dict.fromkeys(name for of_task in shared for name in of_task)
    }
    return {"model": records[0].source, "weights": weights, **_conditions(records[0], of_task=False), **of_tasks}


def _metrics(
    index: int, record: Record, values: Values, standing: Mapping[Key, Standing], joined: Mapping[Key, Bracket]
) -> dict[str, MetricEntry]:
    entries = {}
    for name, metric in record.metrics.items():
        place = standing.get((index, name), Standing())
        entries[name] = MetricEntry(
            value=metric.value,
            stderr=metric.stderr,
            n=len(values[name]) if name in values else metric.n,
            rank=place.rank,
            bracket=joined.get((index, name)),
            vs_full=_difference(place.vs_full),
            vs_plain=_difference(place.vs_plain),
        )
    return entries


def _difference(corrected: Corrected | None) -> CorrectedDifference | None:
    return corrected and CorrectedDifference(**vars(corrected[0]), p_corrected=corrected[1])


def _entry(record: Record, metrics: Mapping[str, MetricEntry], top: Path | None) -> TaskEntry:
    return TaskEntry(
        metrics=metrics,
        documents=record.n,
        limit=record.limit,
        achieved_ratio=record.achieved_ratio,
        answers_cut=record.answers_cut,
        kv_bytes_full=record.kv_bytes_full,
        kv_bytes_kept=record.kv_bytes_kept,
        held=record.held,
        tokens_per_second=record.tokens_per_second,
        conditions=_conditions(record, of_task=True),
        versions=record.versions,
        date=_date(record.date),
        commit=record.commit,
        file=_file(record.path, top),
        cell=record.cell,
        command=command(record),
    )


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _tasks(records: Iterable[Record]) -> dict[str, TaskSummary]:
    """Each task with the metrics of all its records; the main metric is the foremost that has a direction."""
    by_task: dict[str, list[Record]] = {}
    for record in records:
        by_task.setdefault(record.task, []).append(record)
    return {task: _summary(members) for task, members in sorted(by_task.items())}


def _summary(records: Sequence[Record]) -> TaskSummary:
    metrics: dict[str, bool | None] = {}
    for record in records:
        for name in record.metrics:
            metrics.setdefault(name, direction(record, name))
    directed = [name for name, better in metrics.items() if better is not None]
    main = foremost(directed) or next(iter([*directed, *metrics]), None)
    notes = {name: note for name in metrics if (note := of_metric(name))}
    return TaskSummary(records[0].version, records[0].n, metrics, main, of_task(records[0].task), notes)


def _file(path: Path, top: Path | None) -> str:
    """A file's path below the results, or its name if it lies elsewhere: no paths of this machine."""
    return path.relative_to(top).as_posix() if top and path.is_relative_to(top) else path.name


def _date(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
