"""The results of one model, task by task, as values by document that belong together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from fairkv_eval.bootstrap import Floats
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy_arguments import AMOUNTS, ARGUMENTS
from fairkv_eval.results import samples
from fairkv_eval.results.record import Record, direction
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.selection import full_cache

# A policy that differs from the defaults in these alone evicts pairs, and does nothing else with them.
_EVICTING = (*AMOUNTS, "fair", "keep")

Partner = tuple[RecordedPolicy, RecordedPolicy]


@dataclass(frozen=True)
class TaskCells:
    """One task's records on the same documents, by policy, all of one run but for the policy.

    ``origins``: of each document the number and the target, which tasks share that are made from the same data.
    """

    task: str
    records: Mapping[RecordedPolicy, Record]
    tables: Mapping[RecordedPolicy, Mapping[str, Floats]]
    origins: tuple[Hashable, ...]

    @cached_property
    def full(self) -> RecordedPolicy | None:
        """The full cache; None if it was not run."""
        try:
            return full_cache(list(self.records.values())).policy
        except UsageError:
            return None

    @cached_property
    def presses(self) -> dict[RecordedPolicy, str]:
        """Each press that only evicts, without amount, fairness and whitelist, and its shortest name."""
        policies = list(dict.fromkeys(press_of(policy) for policy in self.records if evicts_only(policy)))
        names = [policy.press_name for policy in policies]
        whole = [" ".join([policy.name, *policy.settings()]) for policy in policies]
        return {p: n if names.count(n) == 1 else w for p, n, w in zip(policies, names, whole, strict=True)}

    def values(self, policy: RecordedPolicy, metric: str) -> Floats | None:
        """Values ``[documents]``, NaN if the metric does not apply to a document; None if the record lacks it."""
        return self.tables[policy].get(metric)

    def has(self, metric: str) -> bool:
        return any(metric in table for table in self.tables.values())

    def higher_is_better(self, metric: str) -> bool | None:
        record = next(record for policy, record in self.records.items() if metric in self.tables[policy])
        return direction(record, metric)

    def plain(self) -> dict[str, dict[float, RecordedPolicy]]:
        """{press: {ratio: policy}} of all that evict by ratio, plainly, ratios ascending."""
        by_press: dict[str, dict[float, RecordedPolicy]] = {}
        for policy in sorted(self.records, key=lambda p: (p.label, p.ratio)):
            if evicts_only(policy) and policy.amount == "ratio" and not (policy.sets_amount or is_set(policy)):
                by_press.setdefault(self.presses[press_of(policy)], {})[policy.ratio] = policy
        return by_press


@dataclass(frozen=True)
class ModelCells:
    """``left_out``: results that no finding uses, and why."""

    model: str
    tasks: Mapping[str, TaskCells]
    left_out: Sequence[str] = field(default=())


def evicts_only(policy: RecordedPolicy) -> bool:
    """Whether a policy evicts pairs and neither merges nor packs them, nor does anything else that is not default."""
    apart = [entry for entry in ARGUMENTS if entry.name not in _EVICTING]
    return policy.evicts and all(getattr(policy, entry.name) == entry.default for entry in apart)


def is_set(policy: RecordedPolicy) -> bool:
    """Whether it is fair or has a whitelist."""
    return bool(policy.fair or policy.keep)


def press_of(policy: RecordedPolicy) -> RecordedPolicy:
    """A policy without amount, fairness and whitelist."""
    amounts: dict[str, Any] = {"ratio": 0.0, "budget": None, "budget_bytes": None}
    return replace(policy, fair=0.0, keep=(), **amounts)


def arrange(records: Iterable[Record]) -> list[ModelCells]:
    """The cells of each model, by name. Of several runs of a task under other conditions the largest counts."""
    by_model: dict[str, dict[str, dict[Any, list[Record]]]] = {}
    for record in records:
        by_model.setdefault(record.model, {}).setdefault(record.task, {}).setdefault(record.run, []).append(record)
    return [_model(name, by_model[name]) for name in sorted(by_model)]


def _model(name: str, by_task: Mapping[str, Mapping[Any, Sequence[Record]]]) -> ModelCells:
    tasks, left_out = {}, []
    for task, runs in sorted(by_task.items()):
        largest = max(runs.values(), key=len)
        others = sum(len(members) for members in runs.values() if members is not largest)
        left_out += [f"{others} results of {task} under other conditions than most"] * bool(others)
        cells, omitted = _task(task, largest)
        left_out += omitted
        if cells:
            tasks[task] = cells
    return ModelCells(name, tasks, left_out)


def _task(task: str, records: Sequence[Record]) -> tuple[TaskCells | None, list[str]]:
    columns: dict[RecordedPolicy, Mapping[str, samples.Column]] = {}
    origins: dict[str, Hashable] = {}
    left_out = []
    for record in records:
        try:
            lines = record.lines()
        except UsageError as error:
            left_out.append(f"{record.policy.label} of {task}: {error}")
            continue
        if lines:
            reported = {name: metric.value for name, metric in record.metrics.items()}
            columns[record.policy] = samples.by_metric(lines, reported)
            origins = origins or _origins(lines)
        else:
            left_out.append(f"{record.policy.label} of {task}: no samples beside it; run with --log_samples")
    documents = _common(columns.values())
    if not documents:
        return None, left_out
    tables = {policy: _table(of_policy, documents) for policy, of_policy in columns.items()}
    used = {record.policy: record for record in records if record.policy in tables}
    return TaskCells(task, used, tables, tuple(origins[document] for document in documents)), left_out


def _origins(lines: Sequence[Mapping[str, Any]]) -> dict[str, Hashable]:
    return {
        key: (str(line.get("doc_id")), line.get("target_hash"))
        for key, line in zip(samples.keys(lines), lines, strict=True)
    }


def _common(columns: Iterable[Mapping[str, samples.Column]]) -> tuple[str, ...]:
    """The documents that all results have, in the first's order."""
    each = [list(dict.fromkeys(d for column in of.values() for d in column.documents)) for of in columns]
    shared = set(each[0]).intersection(*each[1:]) if each else set()
    return tuple(document for document in each[0] if document in shared) if each else ()


def _table(columns: Mapping[str, samples.Column], documents: tuple[str, ...]) -> dict[str, Floats]:
    table = {}
    for metric, column in columns.items():
        by_document = dict(zip(column.documents, column.numbers.tolist(), strict=True))
        table[metric] = np.asarray([by_document.get(document, np.nan) for document in documents])
    return table
