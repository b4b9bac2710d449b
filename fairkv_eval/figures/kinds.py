"""The figures that results can show: those of the pitfalls paper (arXiv 2510.00231), and ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from fairkv_eval.figures.figure import Figure, Panel, Point
from fairkv_eval.figures.model_results import ModelResults, TaskResults
from fairkv_eval.figures.panels import (
    AXES,
    DEFENSE_LEAKED,
    FOLLOWED,
    LEAKED,
    RATIO,
    against_plain,
    by_metric,
    by_press,
    by_press_and_setting,
    headline,
    measuring,
    metric_panel,
    metrics_of,
    nominal_ratio,
    over_ratio,
    with_series,
)
from fairkv_eval.figures.points import accuracy_and_spread, measured
from fairkv_eval.figures.rank_correlation import rank_correlation, single_with_multi
from fairkv_eval.instruction_classes import CLASSES
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy

_LINEAR_KL = 0.01  # nats per token; above it the axis is logarithmic, so one broken policy leaves the others apart


class Kind(NamedTuple):
    """A kind of figure. ``needs``: the results it is drawn from."""

    name: str
    needs: str
    make: Callable[[ModelResults], Iterator[Figure]]


def figures(results: ModelResults) -> tuple[list[Figure], list[str]]:
    """All figures of one model's results, and the kinds left out, each with what it needs."""
    drawn: list[Figure] = []
    missing = []
    for kind in KINDS:
        made = [figure for figure in kind.make(results) if figure.panels]
        drawn += made
        missing += [] if made else [f"{kind.name}: needs {kind.needs}"]
    return drawn, missing


def _classes(results: ModelResults) -> Iterator[Figure]:
    """Accuracy of each class over the ratio, absolute and divided by the full cache's."""
    for task in results.tasks:
        lines = [(name.replace("_", " "), f"acc_{name}") for name in task.classes]
        yield from by_metric(task, f"class_accuracy_{task.name}", "Accuracy by class of instruction", lines)


def _positions(results: ModelResults) -> Iterator[Figure]:
    """Accuracy by the place of an instruction among several."""
    for task in results.tasks:
        names = sorted(name for name in task.metrics() if name.startswith("acc_position_"))
        lines = [(name.removeprefix("acc_").replace("_", " "), name) for name in names]
        yield from by_metric(task, f"position_accuracy_{task.name}", "Accuracy by position of instruction", lines)


def _single_multi(results: ModelResults) -> Iterator[Figure]:
    for task in results.tasks:
        if {"acc_single", "acc_multi"} <= task.metrics():
            lines = [("one", "acc_single"), ("several", "acc_multi")]
            yield from by_metric(task, f"single_multi_{task.name}", "Prompts with one instruction and several", lines)


def _rankings(results: ModelResults) -> Iterator[Figure]:
    """Spearman correlations: of the class ranking with the full cache's, and of single with multi."""
    rankings: list[tuple[str, str, str, Callable[[TaskResults, Record], Point | None]]] = [
        ("class_ranking", "Ranking of classes against the full cache's", "with ratio 0", rank_correlation),
        (
            "class_ranking_single_multi",
            "Ranking of classes, single against multi",
            "single with multi",
            single_with_multi,
        ),
    ]
    for name, title, what, point in rankings:
        panels = [
            over_ratio(results, task, task.name, f"Spearman correlation {what}", partial(point, task))
            for task in results.tasks
            if task.classes
        ]
        yield Figure(name, title, with_series(panels))


def _following_and_leakage(results: ModelResults) -> Iterator[Figure]:
    yield _both(results, "following_and_leakage", "Directives followed and leaked", flipped=False)


def _flipped(results: ModelResults) -> Iterator[Figure]:
    yield _both(results, "following_and_leakage_flipped", "Followed and leaked, directive before defense", flipped=True)


def _defense_leakage(results: ModelResults) -> Iterator[Figure]:
    panels = [metric_panel(results, task, DEFENSE_LEAKED) for task in _attacked(results)]
    yield Figure("defense_leakage", "Leakage of the defense", with_series(panels))


def _keep_rates(results: ModelResults) -> Iterator[Figure]:
    """Kept share of each segment: a panel per press, its fair variants in broken lines. Segments that are instructions
    have figures of their own, by class and by position, and only of plain eviction: their lines are many."""
    for task in results.tasks:
        for name, segments in _segments(task).items():
            shown = [line for line in task.lines if not line.keep and (name == "" or not line.fair)]
            panels = []
            for title, members in by_press_and_setting(shown).items():
                made = [
                    one
                    for variant, (setting, line) in enumerate(members.items())
                    for one in metrics_of(task, line, segments, measuring, setting, variant)
                ]
                panels.append(Panel(title, RATIO, "share of pairs kept", tuple(made)))
            title = f"What is kept of each segment{name.replace('_', ', by ')}: {task.name}"
            yield Figure(f"keep_rates{name}_{task.name}", title, with_series(panels))


def _segments(task: TaskResults) -> dict[str, list[tuple[str, str]]]:
    """The segments with measured keep rates, as {"": …, "_class": …, "_position": …} of (label, metric)."""
    segments: dict[str, list[tuple[str, str]]] = {}
    for metric in sorted(name for name in task.metrics() if name.startswith("keep_rate_")):
        segment = metric.removeprefix("keep_rate_")
        kind = "_class" if segment in CLASSES else "_position" if segment.startswith("position_") else ""
        segments.setdefault(kind, []).append((segment.replace("_", " "), metric))
    return segments


def _whitelist(results: ModelResults) -> Iterator[Figure]:
    yield from against_plain(results, "whitelist", "Whitelist against plain", lambda line: bool(line.keep))


def _fair(results: ModelResults) -> Iterator[Figure]:
    yield from against_plain(results, "fair", "Fair against plain", lambda line: bool(line.fair) and not line.keep)


def _pareto(results: ModelResults) -> Iterator[Figure]:
    """Spread between classes against mean accuracy; lower right is better."""
    for task in results.tasks:
        spreads = {
            record.policy: both
            for records in task.lines.values()
            for record in records
            if (both := accuracy_and_spread(task, record)) is not None
        }
        axes = ("mean accuracy over classes", "spread (best − worst class, relative)")
        panels = by_press(results, task, axes, partial(_spread_of, spreads), partial(_accuracy_of, spreads))
        yield Figure(
            f"pareto_spread_{task.name}",
            f"Fairness against accuracy, from ratio 0 (lower right) on: {task.name}",
            panels,
        )


def _bytes(results: ModelResults) -> Iterator[Figure]:
    """Quality against the bytes that a context really holds."""
    for task in results.tasks:
        metric = headline(task)
        if metric:
            axes = ("KV cache held (MiB per context)", AXES.get(metric, metric))
            panels = by_press(results, task, axes, measuring(metric), _mebibytes)
            yield Figure(f"quality_bytes_{task.name}", f"Quality against bytes held: {task.name}", panels)


def _fidelity(results: ModelResults) -> Iterator[Figure]:
    for task in results.tasks:
        if "fidelity_kl" in task.metrics():
            panels = by_press(results, task, (RATIO, AXES["fidelity_kl"]), _kl, nominal_ratio)
            panels = tuple(replace(panel, linear_to=_LINEAR_KL) for panel in panels)
            yield Figure(f"fidelity_{task.name}", f"Distance from the full cache's answers: {task.name}", panels)


def _overview(results: ModelResults) -> Iterator[Figure]:
    panels = [metric_panel(results, task, metric) for task in results.tasks if (metric := headline(task))]
    yield Figure("overview", "Every task, plain eviction", with_series(panels))


KINDS = (
    Kind("overview", "a metric with a direction", _overview),
    Kind("class_accuracy", "acc_<class> of at least two classes (sys_ifeval)", _classes),
    Kind("position_accuracy", "acc_position_<k> (sys_multi)", _positions),
    Kind("single_multi", "acc_single and acc_multi (sys_ifeval)", _single_multi),
    Kind("class_ranking", "acc_<class> under the full cache and a press", _rankings),
    Kind("following_and_leakage", f"{FOLLOWED} or {LEAKED} under a plain press", _following_and_leakage),
    Kind("following_and_leakage_flipped", "the same of a flipped task", _flipped),
    Kind("defense_leakage", f"{DEFENSE_LEAKED} under a plain press", _defense_leakage),
    Kind("keep_rates", "keep_rate_<segment>", _keep_rates),
    Kind("whitelist", "a press with and without keep", _whitelist),
    Kind("fair", "a press with and without fair", _fair),
    Kind("pareto_spread", "acc_<class> under the full cache and a press", _pareto),
    Kind("quality_bytes", "kv_bytes_kept", _bytes),
    Kind("fidelity", "fidelity_kl (a sweep with fidelity)", _fidelity),
)


def _both(results: ModelResults, name: str, title: str, flipped: bool) -> Figure:
    order = [task for task in results.tasks if ("flipped" in task.name) == flipped]
    panels = [metric_panel(results, task, FOLLOWED) for task in order]
    panels += [metric_panel(results, task, LEAKED) for task in _attacked(replace(results, tasks=tuple(order)))]
    return Figure(name, title, with_series(panels))


def _attacked(results: ModelResults) -> list[TaskResults]:
    """The leakage tasks of the paper's attack, "plain", if there are any; else all."""
    leaking = [task for task in results.tasks if LEAKED in task.metrics()]
    return [task for task in leaking if "plain" in task.name] or leaking


def _mebibytes(record: Record) -> float | None:
    return None if record.kv_bytes_kept is None else record.kv_bytes_kept / 2**20


def _spread_of(spreads: Mapping[RecordedPolicy, tuple[float, float]], record: Record) -> Point | None:
    return (spreads[record.policy][1], None, None) if record.policy in spreads else None


def _accuracy_of(spreads: Mapping[RecordedPolicy, tuple[float, float]], record: Record) -> float | None:
    return spreads[record.policy][0] if record.policy in spreads else None


def _kl(record: Record) -> Point | None:
    """The full cache is at no distance from itself, whether or not that was measured."""
    return measured(record, "fidelity_kl") or ((0.0, None, None) if record.policy.full else None)
