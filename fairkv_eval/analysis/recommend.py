"""The strongest compression whose loss against the full cache stays within a bound, with a stated confidence.

Learn then test (Angelopoulos, Bates, Candès, Jordan and Lei, arXiv 2110.01052): every candidate has a valid test of
"its expected loss exceeds the bound" on paired losses by document. Along the ratios of one press and setting the tests
are made in a fixed sequence, weakest compression first, up to the first that fails; over presses and settings alpha is
divided (Bonferroni). So the chance that any recommendation exceeds the bound is at most alpha.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairkv_eval.errors import UsageError
from fairkv_eval.results.record import Record
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.selection import full_cache, metric_of, one_run, selected, values

# Shares of the largest bet, and what each is weighted: half as much for a bet 1/√2 times as large. Small bets only pay
# with many documents, and those make up for their small weight.
_BETS = 0.95 * 2.0 ** (-np.arange(16) / 2)
_LOG_WEIGHTS = -np.log(2.0) * np.minimum(np.arange(1, 17), 15)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Loss:
    """A candidate's loss on one task: mean over n documents, and the upper bound that holds with the confidence.

    ``needed``: documents with which the candidate would pass if losses went on as they are; None: no number would do.
    """

    task: str
    metric: str
    n: int
    mean: float
    bound: float
    needed: int | None


@dataclass(frozen=True)
class Candidate:
    """A policy: the ratio it achieved, its losses, and whether it passed: its test and all before it in its family."""

    policy: RecordedPolicy
    ratio: float
    losses: tuple[Loss, ...]
    passed: bool


@dataclass(frozen=True)
class Recommendation:
    """``families``: candidates by press and setting, weakest compression first. ``best``: the strongest that passed.

    ``level``: the error allowed to each family, alpha over their number. ``left_out``: what could not be tested.
    """

    model: str
    max_drop: float
    alpha: float
    level: float
    families: list[list[Candidate]]
    best: Candidate | None
    left_out: list[str]


def recommend(
    paths: Sequence[str | Path],
    *,
    max_drop: float = 0.02,
    alpha: float = 0.1,
    metric: str | None = None,
    tasks: Sequence[str] = (),
    model: str | None = None,
    between: tuple[float, float] = (0.0, 1.0),
) -> Recommendation:
    """Test every compressed policy in these results against the full cache.

    ``metric``: default each task's principal one. With several tasks a policy must stay within the bound
    on each. ``between``: what the metric can be at least and at most; a value outside is a UsageError, as are results
    of several models or conditions, a missing full cache and missing samples.
    """
    _check(max_drop, alpha, between)
    found = selected(paths, model, tasks)
    by_task = one_run(found.records)
    left_out = [f"{problem.path.name}: {problem.reason}" for problem in found.problems]
    losses: dict[RecordedPolicy, dict[str, tuple[str, Floats]]] = {}
    ratios: dict[RecordedPolicy, list[float]] = {}
    for task, records in by_task.items():
        full = full_cache(records)
        name = metric_of(full, metric)
        scores = _bounded(values(full, name), between, full, name)
        for record in records:
            if record.policy.full:
                continue
            if name not in record.metrics:
                left_out.append(f"{record.policy.label}: its result of {task} has no {name}")
                continue
            given = _bounded(values(record, name), between, record, name)
            losses.setdefault(record.policy, {})[task] = (name, _losses(scores, given, full, name))
            ratios.setdefault(record.policy, []).append(
                record.policy.ratio if record.achieved_ratio is None else record.achieved_ratio
            )
    complete = {policy: of for policy, of in losses.items() if len(of) == len(by_task)}
    left_out += [f"{policy.label}: no result of every task" for policy in losses if policy not in complete]
    if not complete:
        raise UsageError("no compressed policy with a result of every task, so there is nothing to recommend")
    families = _families(complete, ratios)
    level = alpha / len(families)
    width = between[1] - between[0]
    tested = [_in_sequence(family, complete, ratios, max_drop, level, width) for family in families]
    passed = [candidate for family in tested for candidate in family if candidate.passed]
    best = max(passed, key=lambda c: (c.ratio, -max(loss.mean for loss in c.losses)), default=None)
    return Recommendation(found.records[0].model, max_drop, alpha, level, tested, best, left_out)


def upper_bound(losses: Sequence[float] | Floats, level: float) -> float:
    """The smallest b for which "the expected loss is above b" is refuted at this level; losses in [−1, 1].

    A betting test (Waudby-Smith and Ramdas, arXiv 2010.09686): under the hypothesis no bet on smaller losses is
    expected to gain, so wealth of 1/level is reached with a chance of at most ``level``. The bettor splits the stake
    over fixed bets, so the order of documents does not matter. 1 where nothing smaller can be said.
    """
    from scipy.optimize import brentq

    given = np.asarray(losses, dtype=float)
    enough = -np.log(level)

    def short(bound: float) -> float:
        return enough - _log_wealth(given, bound)

    low, high = -1.0, 1 - 1e-9
    if short(high) > 0:
        return 1.0
    if short(low) <= 0:
        return low
    return float(brentq(short, low, high, xtol=1e-9)) + 1e-9


def documents_needed(losses: Sequence[float] | Floats, bound: float, level: float) -> int | None:
    """How many documents would refute "the expected loss is above the bound" if losses went on as these are."""
    given = np.asarray(losses, dtype=float)
    grown = _log_bets(given, bound) / len(given)
    paying = grown > 0
    if not paying.any():
        return None
    high = int(np.ceil(np.min((-np.log(level) - _LOG_WEIGHTS[paying]) / grown[paying])))
    low = 0
    while low + 1 < high:
        middle = (low + high) // 2
        enough = np.logaddexp.reduce(_LOG_WEIGHTS + middle * grown) >= -np.log(level)
        low, high = (low, middle) if enough else (middle, high)
    return high


def _log_wealth(losses: Floats, bound: float) -> float:
    return float(np.logaddexp.reduce(_LOG_WEIGHTS + _log_bets(losses, bound)))


def _log_bets(losses: Floats, bound: float) -> Floats:
    """The logarithm of what each bet has become after all losses. The largest bet would lose all at a loss of 1."""
    bets = _BETS / (1 - bound)
    return np.log1p(bets[:, None] * (bound - losses)[None, :]).sum(axis=1)


def _in_sequence(
    family: list[RecordedPolicy],
    losses: dict[RecordedPolicy, dict[str, tuple[str, Floats]]],
    ratios: dict[RecordedPolicy, list[float]],
    max_drop: float,
    level: float,
    width: float,
) -> list[Candidate]:
    """A family's candidates, passed up to the first whose loss on some task may exceed the bound."""
    candidates: list[Candidate] = []
    for policy in family:
        told = tuple(_loss(task, *losses[policy][task], max_drop, level, width) for task in losses[policy])
        passed = all(loss.bound <= max_drop for loss in told) and all(c.passed for c in candidates)
        candidates.append(Candidate(policy, _mean(ratios[policy]), told, passed))
    return candidates


def _loss(task: str, metric: str, losses: Floats, max_drop: float, level: float, width: float) -> Loss:
    scaled = losses / width
    return Loss(
        task,
        metric,
        len(losses),
        float(losses.mean()),
        width * upper_bound(scaled, level),
        documents_needed(scaled, max_drop / width, level),
    )


def _families(
    policies: dict[RecordedPolicy, dict[str, tuple[str, Floats]]], ratios: dict[RecordedPolicy, list[float]]
) -> list[list[RecordedPolicy]]:
    """Policies that differ in ratio or budget alone, weakest compression first."""
    families: dict[RecordedPolicy, list[RecordedPolicy]] = {}
    for policy in sorted(policies, key=lambda p: (p.label, _mean(ratios[p]))):
        families.setdefault(replace(policy, ratio=0.0, budget=None), []).append(policy)
    return [sorted(family, key=lambda p: (_mean(ratios[p]), p.ratio)) for family in families.values()]


def _losses(full: dict[str, float], given: dict[str, float], record: Record, metric: str) -> Floats:
    """Full cache minus policy for each document, so that a loss is positive; the documents must be the same."""
    if set(full) != set(given):
        raise UsageError(
            f"metric {metric} of task {record.task} is on other documents under a policy than with full cache"
        )
    gaps = np.asarray([full[document] - given[document] for document in full])
    return gaps if record.higher_is_better[metric.partition(",")[0]] else -gaps


def _bounded(given: dict[str, float], between: tuple[float, float], record: Record, metric: str) -> dict[str, float]:
    low, high = between
    outside = next((value for value in given.values() if not low - 1e-9 <= value <= high + 1e-9), None)
    if outside is not None:
        raise UsageError(
            f"{record.path.name}: {metric} of task {record.task} is {outside:g} for a document, outside "
            f"{low:g} to {high:g}; the guarantee needs the range it can have, --range LOW HIGH"
        )
    return given


def _check(max_drop: float, alpha: float, between: tuple[float, float]) -> None:
    low, high = between
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise UsageError(f"a range of {low:g} to {high:g} is not allowed; it takes two numbers, the smaller first")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha={alpha:g} is not allowed; it takes a number between 0 and 1")
    if not 0 <= max_drop < high - low:
        raise UsageError(
            f"max_drop={max_drop:g} is not allowed; it takes a number from 0 up to the range's {high - low:g}"
        )


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
