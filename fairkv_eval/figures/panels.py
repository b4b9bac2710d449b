"""Panels that several figures share: over the ratio, one line per press or metric, plain beside fair."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

from fairkv_eval.figures.figure import Figure, Panel, Point, Series
from fairkv_eval.figures.model_results import ModelResults, TaskResults, labels
from fairkv_eval.figures.points import measured, relative_to_full
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.selection import main_metric

RATIO = "ratio (share of the context evicted)"
FOLLOWED = "prompt_level_strict_acc"
LEAKED = "rougeL_recall_directive"
DEFENSE_LEAKED = "rougeL_recall_defense"
# The labels of axes; a metric that is not here is called by its own name.
AXES = {
    FOLLOWED: "prompts followed (strict)",
    LEAKED: "directive leaked (ROUGE-L recall)",
    DEFENSE_LEAKED: "defense leaked (ROUGE-L recall)",
    "fidelity_kl": "KL to the full cache (nats per token)",
}

Pointer = Callable[[Record], Point | None]


def by_metric(task: TaskResults, name: str, title: str, lines: list[tuple[str, str]]) -> Iterator[Figure]:
    """A panel per plain press with a line per metric: as measured, and divided by the full cache's value."""
    names = labels(task.plain())

    def panels(y_label: str, of: Callable[[str], Pointer], level: float | None) -> tuple[Panel, ...]:
        return with_series(
            [Panel(names[line], RATIO, y_label, metrics_of(task, line, lines, of), level) for line in task.plain()]
        )

    yield Figure(name, f"{title}: {task.name}", panels("accuracy", measuring, None))
    divided = panels("accuracy / that at ratio 0", lambda metric: partial(relative_to_full, task, metric=metric), 1.0)
    yield Figure(f"{name}_relative", f"{title}, relative: {task.name}", divided)


def metrics_of(
    task: TaskResults,
    line: RecordedPolicy,
    metrics: list[tuple[str, str]],
    of: Callable[[str], Pointer],
    setting: str = "",
    variant: int = 0,
) -> tuple[Series, ...]:
    """A line per metric, each a pair (label, metric)."""
    made = (
        _series(f"{label} {setting}".strip(), task.lines[line], of(metric), index, variant)
        for index, (label, metric) in enumerate(metrics)
    )
    return tuple(one for one in made if one)


def over_ratio(results: ModelResults, task: TaskResults, title: str, y_label: str, point: Pointer) -> Panel:
    """A line per plain press."""
    names = labels(task.plain())
    made = (_series(names[line], task.lines[line], point, results.styles[line.name]) for line in task.plain())
    return Panel(title, RATIO, y_label, tuple(one for one in made if one))


def metric_panel(results: ModelResults, task: TaskResults, metric: str) -> Panel:
    return over_ratio(results, task, task.name, AXES.get(metric, metric), measuring(metric))


def against_plain(
    results: ModelResults, name: str, title: str, variant: Callable[[RecordedPolicy], bool]
) -> Iterator[Figure]:
    """A panel per press: its plain line, and those of its variants."""
    for task in results.tasks:
        metric = headline(task)
        if metric:
            shown = [line for line in task.lines if variant(line) or (not line.fair and not line.keep)]
            axes = (RATIO, AXES.get(metric, metric))
            panels = grouped(results, task, shown, axes, measuring(metric), nominal_ratio)
            panels = tuple(panel for panel in panels if len(panel.series) > 1)
            yield Figure(f"{name}_{task.name}", f"{title}: {task.name}", panels)


def by_press(
    results: ModelResults,
    task: TaskResults,
    axes: tuple[str, str],
    point: Pointer,
    at: Callable[[Record], float | None],
) -> tuple[Panel, ...]:
    """A panel per press with its plain and fair lines, all other policies behind them in grey."""
    shown = [line for line in task.lines if not line.keep]
    panels = grouped(results, task, shown, axes, point, at)
    everywhere = {(x, y) for panel in panels for one in panel.series for x, y in zip(one.x, one.y, strict=True)}
    return tuple(replace(panel, behind=tuple(sorted(everywhere))) for panel in panels)


def grouped(
    results: ModelResults,
    task: TaskResults,
    lines: list[RecordedPolicy],
    axes: tuple[str, str],
    point: Pointer,
    at: Callable[[Record], float | None],
) -> tuple[Panel, ...]:
    """A panel per press; its lines differ in how they are drawn."""
    panels = []
    for title, members in by_press_and_setting(lines).items():
        made = (
            _series(setting or "plain", task.lines[line], point, results.styles[line.name], variant, at)
            for variant, (setting, line) in enumerate(members.items())
        )
        panels.append(Panel(title, *axes, tuple(one for one in made if one)))
    return with_series(panels)


def by_press_and_setting(lines: list[RecordedPolicy]) -> dict[str, dict[str, RecordedPolicy]]:
    """{press: {setting: line}}; the plain setting is ""."""
    names = labels(lines)
    presses: dict[str, dict[str, RecordedPolicy]] = {}
    for line in lines:
        press, _, setting = names[line].partition(" ")
        presses.setdefault(press, {})[setting] = line
    return presses


def headline(task: TaskResults) -> str | None:
    """The task's main metric; None if only the full cache was run."""
    last = next((records[-1] for records in task.lines.values()), None)
    return None if last is None else main_metric(last)


def measuring(metric: str) -> Pointer:
    return partial(measured, metric=metric)


def nominal_ratio(record: Record) -> float:
    return record.policy.ratio


def _series(
    label: str,
    records: Iterable[Record],
    point: Pointer,
    style: int,
    variant: int = 0,
    at: Callable[[Record], float | None] = nominal_ratio,
) -> Series | None:
    """The line through each record's point, at its ratio; None if no record has one."""
    points = [(x, p) for r in records if (x := at(r)) is not None and (p := point(r)) is not None]
    if not points:
        return None
    xs, triples = zip(*points, strict=True)
    values, lows, highs = zip(*triples, strict=True)
    return Series(label, xs, values, lows, highs, style, variant)


def with_series(panels: list[Panel]) -> tuple[Panel, ...]:
    """The panels in which some line has more than the full cache's point."""
    return tuple(panel for panel in panels if any(len(one.x) > 1 for one in panel.series))
