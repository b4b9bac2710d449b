"""The results of one model, task by task, arranged into lines over the ratio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from fairkv_eval.figures.sample_values import SampleValues
from fairkv_eval.instruction_classes import CLASSES
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy


@dataclass(frozen=True)
class TaskResults:
    """One task's results, all comparable: the full cache, and for each press and setting its records by ratio."""

    name: str
    full: Record | None
    lines: Mapping[RecordedPolicy, tuple[Record, ...]]
    samples: SampleValues = field(default_factory=SampleValues, compare=False, repr=False)

    def plain(self) -> list[RecordedPolicy]:
        return [line for line in self.lines if not line.fair and not line.keep]

    def metrics(self) -> set[str]:
        return {name for records in self.lines.values() for record in records for name in record.metrics}

    @cached_property
    def classes(self) -> list[str]:
        """The instruction classes it measures; [] for fewer than two, since nothing can then be compared."""
        measured = [name for name in CLASSES if f"acc_{name}" in self.metrics()]
        return measured if len(measured) > 1 else []

    def class_accuracies(self, record: Record) -> dict[str, float]:
        """The record's accuracy of each class; {} if it lacks one."""
        if not all(f"acc_{name}" in record.metrics for name in self.classes):
            return {}
        return {name: record.metrics[f"acc_{name}"].value for name in self.classes}


@dataclass(frozen=True)
class ModelResults:
    """One model's results, task by task; ``styles``: each press's colour and marker, the same in every figure."""

    model: str
    tasks: tuple[TaskResults, ...]
    styles: Mapping[str, int]


def arrange(records: Iterable[Record]) -> tuple[list[ModelResults], list[str]]:
    """The results of each model, and what no figure can show: budgets in place of ratios, and other runs of a task."""
    left_out: list[str] = []
    by_model: dict[str, dict[str, dict[Any, list[Record]]]] = {}
    for record in records:
        policy = record.policy
        if policy.amount != "ratio" or policy.decode_budget is not None or policy.sets_amount:
            left_out.append(f"{record.path.name}: {policy.label} has no ratio to be drawn over")
            continue
        by_model.setdefault(record.model, {}).setdefault(record.task, {}).setdefault(record.run, []).append(record)
    models = []
    for model, runs_by_task in sorted(by_model.items()):
        tasks = []
        for task, runs in sorted(runs_by_task.items()):
            largest = max(runs.values(), key=len)
            others = [record for members in runs.values() if members is not largest for record in members]
            left_out += [f"{r.path.name}: task {task} under other conditions than most of its results" for r in others]
            tasks.append(_task_results(task, largest))
        presses = sorted({line.name for task in tasks for line in task.lines})
        models.append(ModelResults(model, tuple(tasks), {press: index for index, press in enumerate(presses)}))
    return models, left_out


def labels(lines: Iterable[RecordedPolicy]) -> dict[RecordedPolicy, str]:
    """Short names that tell these lines apart: the bare press if all of its lines have the same parameters."""
    names: dict[str, set[str]] = {}
    lines = list(lines)
    for line in lines:
        names.setdefault(line.press, set()).add(line.name)
    short = {line: line.name if len(names[line.press]) > 1 else line.press for line in lines}
    return {line: " ".join([name, *line.settings()]) for line, name in short.items()}


def _task_results(name: str, records: Sequence[Record]) -> TaskResults:
    """Every line starts where nothing is evicted and pairs are held as on the line, whichever run measured that."""
    unevicted = (r for r in records if not r.policy.evicts)
    whole = sorted(unevicted, key=lambda r: (r.policy.press != "none", r.policy.label))
    full = [r for r in whole if r.policy.full]
    lines: dict[RecordedPolicy, dict[float, Record]] = {}
    for record in sorted(records, key=lambda r: (r.policy.name, r.policy.fair, r.policy.label, r.policy.ratio)):
        if record.policy.press != "none":
            lines.setdefault(replace(record.policy, ratio=0.0), {})[record.policy.ratio] = record
    complete = {}
    for line, by_ratio in lines.items():
        start = next((r for r in whole if r.policy.held == line.held), None)
        records_by_ratio = {**({0.0: start} if start else {}), **by_ratio}
        complete[line] = tuple(r for _, r in sorted(records_by_ratio.items()))
    return TaskResults(
        name, full[0] if full else None, {line: rs for line, rs in complete.items() if not rs[-1].policy.full}
    )
