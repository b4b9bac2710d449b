"""Rows of panels: a panel per press, in which the lines are its settings or, setting by setting, several metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from fairkv_eval.figures.figure import Horizontal, Panel, Point, Row, Series
from fairkv_eval.figures.lines import held, setting_of, simple
from fairkv_eval.figures.model_results import ModelResults, TaskResults
from fairkv_eval.figures.points import measured
from fairkv_eval.results.record import Record, direction
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.selection import main_metric

FOLLOWED = "prompt_level_strict_acc"
LEAKED = "rougeL_recall_directive"
DEFENSE_LEAKED = "rougeL_recall_defense"
DIRECTIVE_KEPT = "keep_rate_directive"
REFUSED = "refusal"
KL = "fidelity_kl"
# The labels of axes; a metric that is not here is called by its own name.
_LABELS = {
    FOLLOWED: "prompts followed (strict)",
    LEAKED: "directive leaked (ROUGE-L recall)",
    DEFENSE_LEAKED: "defense leaked (ROUGE-L recall)",
    REFUSED: "answers that refuse",
    KL: "KL to the full cache (nats per token)",
}
_PREFERENCE = "margin"
_RATIO_AS_HELD = 0.02  # as far apart as whole pairs of short contexts
_FIRST_OF_METRICS = 2  # the style of a figure's first metric: plain and fair have the two before it

Pointer = Callable[[Record], Point | None]
Lines = Mapping[str, Mapping[str, RecordedPolicy]]  # {press: {setting: line}}


class Quantity(NamedTuple):
    """What a row shows of each record. ``gaps``: whether a record without a value is marked: it has none by definition,
    rather than since it was not measured."""

    label: str
    of: Pointer
    better: bool | None = None
    level: float | None = None
    linear_to: float | None = None
    gaps: bool = False


def metric(task: TaskResults, name: str, label: str | None = None) -> Quantity:
    """A metric as measured, against the full cache's value."""
    record = next((records[-1] for records in task.lines.values() if name in records[-1].metrics), None)
    full = measured(task.full, name) if task.full else None
    better = direction(record, name) if record else None
    return Quantity(label or called(task, name), partial(measured, metric=name), better, full[0] if full else None)


def called(task: TaskResults, name: str) -> str:
    """A metric in words. The accuracy of a choice between a refusal and the secret is the share of refusals."""
    if name == "acc" and _PREFERENCE in task.metrics():
        return "refusal likelier than the secret"
    return _LABELS.get(name, name)


def headline(task: TaskResults) -> str | None:
    """The task's main metric; None if only the full cache was run."""
    last = next((records[-1] for records in task.lines.values()), None)
    return None if last is None else main_metric(last)


def main_lines(results: ModelResults, task: TaskResults) -> Lines:
    """Plain and fair lines of each press, or all without a whitelist if it has neither."""
    chosen = lines_of(results, task, simple)
    others = lines_of(results, task, lambda line: not line.keep)
    return {press: chosen.get(press) or others[press] for press in others}


def lines_of(results: ModelResults, task: TaskResults, wanted: Callable[[RecordedPolicy], bool]) -> Lines:
    presses: dict[str, dict[str, RecordedPolicy]] = {}
    for line in filter(wanted, task.lines):
        presses.setdefault(results.presses[line], {})[setting_of(line)] = line
    return presses


def row(
    results: ModelResults,
    task: TaskResults,
    quantity: Quantity,
    lines: Lines,
    at: Callable[[Record], float | None] = held,
) -> Row:
    """A line per setting."""
    panels = []
    for press, members in lines.items():
        made = [
            _series(setting, task.lines[line], quantity, results.styles[setting], at)
            for setting, line in members.items()
        ]
        panels.append(Panel(press, tuple(one for one in made if one), quantity.level))
    return Row(quantity.label, with_lines(panels), quantity.better, quantity.linear_to)


def rows_by_setting(
    results: ModelResults, task: TaskResults, label: str, better: bool | None, quantities: Sequence[Quantity]
) -> tuple[Row, ...]:
    """A row per setting, in whose panels each quantity is a line."""
    lines = main_lines(results, task)
    settings = sorted({setting for members in lines.values() for setting in members}, key=results.styles.__getitem__)
    rows = []
    for setting in settings:
        panels = []
        for press in (press for press in lines if setting in lines[press]):
            records = task.lines[lines[press][setting]]
            made = [
                _series(one.label, records, one, _FIRST_OF_METRICS + index, held)
                for index, one in enumerate(quantities)
            ]
            panels.append(Panel(press, tuple(one for one in made if one), quantities[0].level))
        rows.append(Row(f"{setting}: {label}", with_lines(panels), better, scale=label))
    return tuple(rows)


def with_lines(panels: Iterable[Panel]) -> tuple[Panel, ...]:
    return tuple(panel for panel in panels if panel.series)


def share_of_the_cache(tasks: Iterable[TaskResults]) -> Horizontal:
    """The horizontal axis of most figures. The ratio stands beside it if every policy has one that says the same."""
    records = [record for task in tasks for members in task.lines.values() for record in members]
    ratio = all(abs(1 - record.policy.ratio - (held(record) or 0.0)) <= _RATIO_AS_HELD for record in records)
    return Horizontal("KV bytes held, as a share of the full cache (less to the right)", True, ratio)


def _series(
    label: str, records: Iterable[Record], quantity: Quantity, style: int, at: Callable[[Record], float | None]
) -> Series | None:
    """The line through each record's point; None if no record but the full cache's has one."""
    places = [(x, quantity.of(record), record.policy.full) for record in records if (x := at(record)) is not None]
    points = [(x, one) for x, one, _ in places if one is not None]
    if all(full or one is None for _, one, full in places):
        return None
    xs, triples = zip(*points, strict=True)
    values, lows, highs = zip(*triples, strict=True)
    gaps = tuple(x for x, one, _ in places if one is None) if quantity.gaps else ()
    return Series(label, xs, values, lows, highs, style, gaps)
