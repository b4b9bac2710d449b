"""The results of one model, task by task, arranged into lines from the full cache to the smallest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fairkv_eval.figures.lines import held, labels, line_of, setting_of, simple
from fairkv_eval.figures.sample_values import SampleValues
from fairkv_eval.instruction_classes import CLASSES
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy


@dataclass(frozen=True)
class TaskResults:
    """One task's results, all comparable: the full cache, and for each press and setting its records, by bytes held."""

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
    """One model's results, task by task.

    ``presses``: the name of each line's press, the same in every figure; ``styles``: each setting's, likewise.
    """

    model: str
    tasks: tuple[TaskResults, ...]
    presses: Mapping[RecordedPolicy, str]
    styles: Mapping[str, int]


def arrange(records: Iterable[Record]) -> tuple[list[ModelResults], list[str]]:
    """The results of each model, and what no figure can show: what held unknown bytes, and other runs of a task."""
    left_out: list[str] = []
    by_model: dict[str, dict[str, dict[Any, list[Record]]]] = {}
    for record in records:
        reason = _unplaced(record)
        if reason:
            left_out.append(f"{record.path.name}: {record.policy.label} {reason}")
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
        models.append(_model_results(model, tasks))
    return models, left_out


def _unplaced(record: Record) -> str | None:
    """Why a record has no place in a figure; None if it has one."""
    if record.policy.decode_budget is not None:
        return "bounds the answer as well, and the bytes of that are not recorded"
    return "has no recorded bytes to be placed by" if held(record) is None else None


def _model_results(model: str, tasks: Sequence[TaskResults]) -> ModelResults:
    lines = [line for task in tasks for line in task.lines]
    # Those of most figures first, so that they are told apart if there are more settings than styles.
    most = sorted({setting_of(line) for line in lines if simple(line)} - {"plain", "fair"})
    settings = list(dict.fromkeys(["plain", "fair", *most, *sorted(map(setting_of, lines))]))
    return ModelResults(
        model, tuple(tasks), labels(lines, settings=False), {name: i for i, name in enumerate(settings)}
    )


def _task_results(name: str, records: Sequence[Record]) -> TaskResults:
    """Every line starts where nothing is evicted and pairs are held as on the line, whichever run measured that."""
    unevicted = (r for r in records if not r.policy.evicts)
    whole = sorted(unevicted, key=lambda r: (r.policy.press != "none", r.policy.label))
    full = next((r for r in whole if r.policy.full), None)
    lines: dict[RecordedPolicy, dict[RecordedPolicy, Record]] = {}
    for record in sorted(records, key=lambda r: (r.policy.name, r.policy.fair, r.policy.label, r.policy.ratio)):
        if not record.policy.full:
            lines.setdefault(line_of(record.policy), {})[record.policy] = record
    complete = {}
    for line, by_policy in lines.items():
        by_size = sorted(by_policy.values(), key=lambda r: (-(held(r) or 0.0), r.policy.ratio))
        complete[line] = (*_start(line, by_size[0], whole), *by_size)
    return TaskResults(name, full, complete)


def _start(line: RecordedPolicy, largest: Record, whole: Sequence[Record]) -> list[Record]:
    """What was measured with nothing evicted, before a line's largest cache; [] if that is on the line itself.

    Without a press the line runs over ways to hold pairs, and starts at the full cache.
    """
    if line.press == "none":
        return [record for record in whole if record.policy.full][:1]
    alike = [record for record in whole if record.policy.held == line.held]
    return alike[:1] if largest.policy.evicts else []
