"""Figures of instructions: by class, by position, and of prompts with one instruction and several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from fairkv_eval.figures.assembly import assembled, of_presses
from fairkv_eval.figures.figure import Figure, Point
from fairkv_eval.figures.model_results import ModelResults, TaskResults
from fairkv_eval.figures.panels import Quantity, main_lines, metric, row, rows_by_setting
from fairkv_eval.figures.points import accuracy_and_spread, relative_to_full
from fairkv_eval.figures.rank_correlation import rank_correlation, single_with_multi
from fairkv_eval.instruction_classes import CLASSES
from fairkv_eval.results.record import Record

_SINGLE_AND_MULTI = {"one instruction": "acc_single", "several instructions": "acc_multi"}


def accuracy(results: ModelResults) -> Iterator[Figure]:
    """Accuracy of each class as measured."""
    for task in results.tasks:
        names = {f"acc_{name}": name.replace("_", " ") for name in task.classes}
        question = "Which classes of instructions suffer?"
        yield _rows(results, task, f"class_accuracy_{task.name}", question, "a class of instruction", names)


def relative_accuracy(results: ModelResults) -> Iterator[Figure]:
    """Accuracy of each class divided by the full cache's."""
    for task in results.tasks:
        names = {f"acc_{name}": name.replace("_", " ") for name in task.classes}
        question = "What part of each class's accuracy is left?"
        yield _rows(results, task, f"class_accuracy_{task.name}_relative", question, "a class", names, relative=True)


def positions(results: ModelResults) -> Iterator[Figure]:
    """Accuracy by the place of an instruction among several."""
    for task in results.tasks:
        question = "Does an instruction's place decide whether it is followed?"
        names = _positions(task, "acc_")
        yield _rows(results, task, f"position_accuracy_{task.name}", question, "a place among several", names)


def relative_positions(results: ModelResults) -> Iterator[Figure]:
    for task in results.tasks:
        question = "What part of the accuracy is left at each place?"
        names = _positions(task, "acc_")
        name = f"position_accuracy_{task.name}_relative"
        yield _rows(results, task, name, question, "a place among several", names, relative=True)


def keep_rates_by_position(results: ModelResults) -> Iterator[Figure]:
    """Keep rates by place, with the prompt's opening before the first if that is the only other segment."""
    for task in results.tasks:
        names = _positions(task, "keep_rate_")
        others = sorted(name for name in task.metrics() if name.startswith("keep_rate_") and name not in names)
        others = [name for name in others if name.removeprefix("keep_rate_") not in CLASSES]
        if names and len(others) == 1:
            segment = others[0].removeprefix("keep_rate_").replace("_", " ")
            names = {others[0]: f"{segment} (before position 1)", **names}
        question = "Does an instruction's place decide what is kept of it?"
        figure = _rows(results, task, f"keep_rates_position_{task.name}", question, "a place in the prompt", names)
        yield of_presses(figure)


def keep_rates_by_class(results: ModelResults) -> Iterator[Figure]:
    for task in results.tasks:
        names = {
            f"keep_rate_{name}": name.replace("_", " ") for name in CLASSES if _measures(task, f"keep_rate_{name}")
        }
        question = "Does an instruction's class decide what is kept of it?"
        figure = _rows(results, task, f"keep_rates_class_{task.name}", question, "a class of instruction", names)
        yield of_presses(figure)


def single_multi(results: ModelResults) -> Iterator[Figure]:
    for task in results.tasks:
        if all(_measures(task, name) for name in _SINGLE_AND_MULTI.values()):
            lines = [metric(task, name, label)._replace(level=None) for label, name in _SINGLE_AND_MULTI.items()]
            rows = rows_by_setting(results, task, "prompts followed", True, lines)
            question = "Do prompts with several instructions suffer more?"
            sentence = "A row is a setting, and a line the share of prompts that are followed whole."
            yield assembled(results, f"single_multi_{task.name}", question, sentence, [task], rows)


def relative_single_multi(results: ModelResults) -> Iterator[Figure]:
    for task in results.tasks:
        if all(_measures(task, name) for name in _SINGLE_AND_MULTI.values()):
            lines = [_relative(task, name, label) for label, name in _SINGLE_AND_MULTI.items()]
            rows = rows_by_setting(results, task, "accuracy / full cache's", True, lines)
            question = "What part of the accuracy is left, with one instruction and with several?"
            shown = {one.label for row in rows for panel in row.panels for one in panel.series}
            without = [one.label for one in lines if one.label not in shown]
            sentence = f"A row is a setting; 1 is the full cache's accuracy.{_without(without)}"
            yield assembled(results, f"single_multi_{task.name}_relative", question, sentence, [task], rows)


def ranking(results: ModelResults) -> Iterator[Figure]:
    """Spearman correlations of the class ranking with the full cache's."""
    question = "Does compression change which classes are hard?"
    yield _correlations(
        results, "class_ranking", question, "Spearman ρ with the full cache's ranking", rank_correlation
    )


def ranking_single_multi(results: ModelResults) -> Iterator[Figure]:
    """Spearman correlations of the class ranking in prompts with one instruction with that in the others."""
    question = "Are the same classes hard in prompts with one instruction and with several?"
    label = "Spearman ρ, single with multi"
    yield _correlations(results, "class_ranking_single_multi", question, label, single_with_multi)


def spread(results: ModelResults) -> Iterator[Figure]:
    """Mean accuracy over the classes and the spread between them."""
    for task in results.tasks:
        both = partial(accuracy_and_spread, task)
        full = both(task.full) if task.full else None
        lines = main_lines(results, task)
        rows = [
            row(
                results,
                task,
                Quantity("mean accuracy over classes", partial(_part, both, 0), True, full and full[0]),
                lines,
            ),
            row(
                results,
                task,
                Quantity("spread: best − worst class, relative", partial(_part, both, 1), False, 0.0),
                lines,
            ),
        ]
        question = "Does compression take the same from every class?"
        sentence = "A spread of 0 means that every class lost the same part of its accuracy."
        yield assembled(results, f"spread_{task.name}", question, sentence, [task], rows)


def _correlations(
    results: ModelResults,
    name: str,
    question: str,
    label: str,
    point: Callable[[TaskResults, Record], Point | None],
) -> Figure:
    tasks = [task for task in results.tasks if task.classes]
    rows = []
    for task in tasks:
        quantity = Quantity(f"{task.name}: {label}", partial(point, task), None, _of_full(task, point), gaps=True)
        rows.append(replace(row(results, task, quantity, main_lines(results, task)), scale=label))
    sentence = "1: the same order of the classes, from easy to hard; 0: no relation."
    return assembled(results, name, question, sentence, tasks, rows)


def _of_full(task: TaskResults, point: Callable[[TaskResults, Record], Point | None]) -> float | None:
    whole = point(task, task.full) if task.full else None
    return whole[0] if whole else None


def _rows(
    results: ModelResults,
    task: TaskResults,
    name: str,
    question: str,
    what: str,
    names: dict[str, str],
    relative: bool = False,
) -> Figure:
    """A row per metric."""
    quantities = [_relative(task, of, label) if relative else metric(task, of, label) for of, label in names.items()]
    lines = main_lines(results, task)
    rows = [row(results, task, one, lines) for one in quantities]
    sentence = f"A column is a press, a row {what}."
    if relative:
        sentence += f" 1 is the full cache's accuracy.{_without([one.label for one in rows if not one.panels])}"
    return assembled(results, name, question, sentence, [task], rows)


def _without(labels: list[str]) -> str:
    """What cannot be divided by the full cache's accuracy."""
    return f" Without {', '.join(labels)}: the full cache follows none." if labels else ""


def _relative(task: TaskResults, name: str, label: str) -> Quantity:
    return Quantity(label, partial(relative_to_full, task, metric=name), True, 1.0)


def _positions(task: TaskResults, prefix: str) -> dict[str, str]:
    names = sorted(name for name in task.metrics() if name.startswith(f"{prefix}position_"))
    return {name: name.removeprefix(prefix).replace("_", " ") for name in names}


def _measures(task: TaskResults, name: str) -> bool:
    return name in task.metrics()


def _part(both: Callable[[Record], tuple[float, float] | None], index: int, record: Record) -> Point | None:
    pair = both(record)
    return None if pair is None else (pair[index], None, None)
