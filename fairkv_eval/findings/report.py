"""All findings of each model in some results, judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fairkv_eval.errors import UsageError
from fairkv_eval.findings.cells import ModelCells, TaskCells, arrange
from fairkv_eval.findings.classes import class_rates
from fairkv_eval.findings.directive_share import directive_share
from fairkv_eval.findings.equal_bytes import equal_bytes
from fairkv_eval.findings.fairness_price import flipped_following, price
from fairkv_eval.findings.fidelity_proxy import fidelity_proxy
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.leakage_peak import peak
from fairkv_eval.findings.numbers import single_and_multi
from fairkv_eval.findings.order import order
from fairkv_eval.findings.places import places
from fairkv_eval.findings.press_bias import bias
from fairkv_eval.findings.remedies import fairness, whitelisting
from fairkv_eval.findings.sample_sizes import SampleSize, sample_sizes
from fairkv_eval.findings.verdict import Goal, JudgedFinding, judged
from fairkv_eval.results.reader import Problem
from fairkv_eval.results.selection import of_policies, selected

FINDINGS: tuple[Callable[[ModelCells], Finding], ...] = (
    *(class_rates, single_and_multi, peak, order, whitelisting, fairness, bias),
    *(equal_bytes, price, fidelity_proxy, flipped_following, directive_share, places),
)


class TaskOf(NamedTuple):
    """The version of a model's task, and its documents by number and target."""

    version: str
    documents: frozenset[Hashable]


@dataclass(frozen=True)
class Choice:
    """The results to report on: of this model, these tasks, presses and ratios; None and () for all."""

    model: str | None = None
    tasks: Sequence[str] = ()
    presses: Sequence[str] = ()
    ratios: Sequence[float] = ()


@dataclass(frozen=True)
class ModelReport:
    """``tasks``: those that findings may use. ``sizes``: the documents that claims take. ``left_out``: results that no
    finding uses, and why."""

    model: str
    tasks: Mapping[str, TaskOf]
    goal: Goal
    findings: tuple[JudgedFinding, ...]
    sizes: tuple[SampleSize, ...]
    left_out: tuple[str, ...]


def reports(
    paths: str | Path | Iterable[str | Path], choice: Choice | None = None, goal: Goal | None = None
) -> list[ModelReport]:
    """The findings of each model in these results. Raise UsageError for results, a choice or a goal that cannot be."""
    choice, goal = choice or Choice(), _checked(goal or Goal())
    records, problems = selected(paths, choice.model, choice.tasks)
    chosen = of_policies(records, choice.presses, choice.ratios)
    others = Counter(record.model for record in records) - Counter(record.model for record in chosen)
    return [
        ModelReport(
            *(cells.model, {task: _task_of(of) for task, of in cells.tasks.items()}),
            *(goal, tuple(judged(finding(cells), goal) for finding in FINDINGS)),
            tuple(sample_sizes(cells, goal)),
            (*_not_chosen(others[cells.model]), *_left_out(problems, cells.model), *cells.left_out),
        )
        for cells in arrange(chosen)
    ]


def _not_chosen(count: int) -> list[str]:
    return [f"{count} results of other presses or ratios"] * bool(count)


def _left_out(problems: Iterable[Problem], model: str) -> Iterator[str]:
    """What was left out of a model's results, and files of nobody knows whom."""
    yield from (f"{of.path.name}: {of.reason}" for of in problems if of.model in (None, model))


def _task_of(cells: TaskCells) -> TaskOf:
    return TaskOf(str(next(iter(cells.records.values())).version), frozenset(cells.origins))


def _checked(goal: Goal) -> Goal:
    if not 0 < goal.size < 1:
        raise UsageError(f"a size of {goal.size:g} is not allowed; it takes a number between 0 and 1, 0.02 is 2 points")
    if not 0.05 < goal.power < 1:
        raise UsageError(f"power={goal.power:g} is not allowed; it takes a number above 0.05 and below 1")
    return goal
