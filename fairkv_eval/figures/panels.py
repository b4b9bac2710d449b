"""Panels that several figures share: over the ratio, a line a press or a metric, plain beside fair."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from fairkv_eval.figures.data import Figure, Panel, Point, Results, Series, Task, labels, measured, relative, series
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.selection import principal

RATIO = "ratio (share of the context evicted)"
FOLLOWED = "prompt_level_strict_acc"
LEAKED = "rougeL_recall_directive"
DEFENCE_LEAKED = "rougeL_recall_defense"
# What an axis says; a metric that is not here is called by its own name.
AXES = {
    FOLLOWED: "prompts followed (strict)",
    LEAKED: "directive leaked (ROUGE-L recall)",
    DEFENCE_LEAKED: "defence leaked (ROUGE-L recall)",
    "fidelity_kl": "KL to the full cache (nats a token)",
}


Pointer = Callable[[Record], Point | None]


def by_metric(task: Task, name: str, title: str, lines: list[tuple[str, str]]) -> Iterator[Figure]:
    """A panel a plain press with a line a metric: as measured, and divided by the full cache's value."""
    names = labels(task.plain())

    def panels(y_label: str, of: Callable[[str], Pointer], level: float | None) -> tuple[Panel, ...]:
        return with_series(
            [Panel(names[line], RATIO, y_label, metrics_of(task, line, lines, of), level) for line in task.plain()]
        )

    yield Figure(name, f"{title}: {task.name}", panels("accuracy", measuring, None))
    divided = panels("accuracy / that at ratio 0", lambda metric: partial(relative, task, metric=metric), 1.0)
    yield Figure(f"{name}_relative", f"{title}, relative: {task.name}", divided)


def metrics_of(
    task: Task,
    line: RecordedPolicy,
    metrics: list[tuple[str, str]],
    of: Callable[[str], Pointer],
    setting: str = "",
    variant: int = 0,
) -> tuple[Series, ...]:
    """A line a metric, given as (label, metric)."""
    made = (
        series(f"{label} {setting}".strip(), task.lines[line], of(metric), index, variant)
        for index, (label, metric) in enumerate(metrics)
    )
    return tuple(one for one in made if one)


def over_ratio(results: Results, task: Task, title: str, y_label: str, point: Pointer) -> Panel:
    """A line a plain press."""
    names = labels(task.plain())
    made = (series(names[line], task.lines[line], point, results.styles[line.name]) for line in task.plain())
    return Panel(title, RATIO, y_label, tuple(one for one in made if one))


def metric_panel(results: Results, task: Task, metric: str) -> Panel:
    return over_ratio(results, task, task.name, AXES.get(metric, metric), measuring(metric))


def against_plain(
    results: Results, name: str, title: str, variant: Callable[[RecordedPolicy], bool]
) -> Iterator[Figure]:
    """A panel a press: its plain line, and those of its variants."""
    for task in results.tasks:
        metric = headline(task)
        if metric:
            shown = [line for line in task.lines if variant(line) or (not line.fair and not line.keep)]
            axes = (RATIO, AXES.get(metric, metric))
            panels = grouped(results, task, shown, axes, measuring(metric), nominal_ratio)
            panels = tuple(panel for panel in panels if len(panel.series) > 1)
            yield Figure(f"{name}_{task.name}", f"{title}: {task.name}", panels)


def by_press(
    results: Results,
    task: Task,
    axes: tuple[str, str],
    point: Pointer,
    at: Callable[[Record], float | None],
) -> tuple[Panel, ...]:
    """A panel a press with its plain and fair lines, all other policies behind them in grey."""
    shown = [line for line in task.lines if not line.keep]
    panels = grouped(results, task, shown, axes, point, at)
    everywhere = {(x, y) for panel in panels for one in panel.series for x, y in zip(one.x, one.y, strict=True)}
    return tuple(replace(panel, behind=tuple(sorted(everywhere))) for panel in panels)


def grouped(
    results: Results,
    task: Task,
    lines: list[RecordedPolicy],
    axes: tuple[str, str],
    point: Pointer,
    at: Callable[[Record], float | None],
) -> tuple[Panel, ...]:
    """A panel a press, its lines told apart by how they are drawn."""
    panels = []
    for title, members in by_press_and_setting(lines).items():
        made = (
            series(setting or "plain", task.lines[line], point, results.styles[line.name], variant, at)
            for variant, (setting, line) in enumerate(members.items())
        )
        panels.append(Panel(title, *axes, tuple(one for one in made if one)))
    return with_series(panels)


def by_press_and_setting(lines: list[RecordedPolicy]) -> dict[str, dict[str, RecordedPolicy]]:
    """{press: {setting: line}}; the plain setting is ""."""
    names = labels(lines)
    found: dict[str, dict[str, RecordedPolicy]] = {}
    for line in lines:
        press, _, setting = names[line].partition(" ")
        found.setdefault(press, {})[setting] = line
    return found


def headline(task: Task) -> str | None:
    """The metric that stands for the task; None where nothing but the full cache was run."""
    last = next((records[-1] for records in task.lines.values()), None)
    return None if last is None else principal(last)


def measuring(metric: str) -> Pointer:
    return partial(measured, metric=metric)


def nominal_ratio(record: Record) -> float:
    return record.policy.ratio


def with_series(panels: list[Panel]) -> tuple[Panel, ...]:
    """The panels in which some line has more than the full cache's point."""
    return tuple(panel for panel in panels if any(len(one.x) > 1 for one in panel.series))
