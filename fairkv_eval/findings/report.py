"""All findings of each model in some results, judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fairkv_eval.errors import UsageError
from fairkv_eval.findings.cells import ModelCells, arrange
from fairkv_eval.findings.classes import class_rates
from fairkv_eval.findings.equal_bytes import equal_bytes
from fairkv_eval.findings.fairness_price import flipped_following, price
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.leakage_peak import peak
from fairkv_eval.findings.numbers import single_and_multi
from fairkv_eval.findings.order import order
from fairkv_eval.findings.press_bias import bias
from fairkv_eval.findings.remedies import fairness, whitelisting
from fairkv_eval.findings.sample_sizes import SampleSize, sample_sizes
from fairkv_eval.findings.verdict import Goal, JudgedFinding, judged
from fairkv_eval.results.selection import selected

FINDINGS: tuple[Callable[[ModelCells], Finding], ...] = (
    *(class_rates, single_and_multi, peak, order, whitelisting, fairness, bias),
    *(equal_bytes, price, flipped_following),
)


@dataclass(frozen=True)
class ModelReport:
    """``sizes``: the documents that claims take. ``left_out``: results that no finding uses, and why."""

    model: str
    goal: Goal
    findings: tuple[JudgedFinding, ...]
    sizes: tuple[SampleSize, ...]
    left_out: tuple[str, ...]


def reports(
    paths: str | Path | Iterable[str | Path],
    model: str | None = None,
    tasks: Sequence[str] = (),
    goal: Goal | None = None,
) -> list[ModelReport]:
    """The findings of each model in these results, or of one. Raise UsageError for results or a goal that cannot be."""
    goal = _checked(goal or Goal())
    records, problems = selected(paths, model, tasks)
    left_out = [f"{problem.path.name}: {problem.reason}" for problem in problems]
    return [
        ModelReport(
            *(cells.model, goal, tuple(judged(finding(cells), goal) for finding in FINDINGS)),
            *(tuple(sample_sizes(cells, goal)), (*left_out, *cells.left_out)),
        )
        for cells in arrange(records)
    ]


def _checked(goal: Goal) -> Goal:
    if not 0 < goal.size < 1:
        raise UsageError(f"a size of {goal.size:g} is not allowed; it takes a number between 0 and 1, 0.02 is 2 points")
    if not 0.05 < goal.power < 1:
        raise UsageError(f"power={goal.power:g} is not allowed; it takes a number above 0.05 and below 1")
    return goal
