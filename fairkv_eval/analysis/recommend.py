"""The strongest compression whose loss against the full cache stays within a bound, with a stated confidence.

Learn then test (Angelopoulos, Bates, Candès, Jordan and Lei, arXiv 2110.01052): every candidate has a valid test of
"its expected loss exceeds the bound" on paired losses by document. Along the amounts of one press and setting the tests
are made in a fixed sequence, weakest compression first, up to the first that fails; over presses and settings alpha is
divided (Bonferroni). So the chance that any recommendation exceeds the bound is at most alpha. Compression is strong
that holds few bytes, so eviction, merging, quantization and any of them together compete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fairkv_eval.analysis.loss_bound import documents_needed, upper_bound
from fairkv_eval.bootstrap import Floats
from fairkv_eval.errors import UsageError
from fairkv_eval.results.record import Record, direction
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.results.selection import full_cache, metric_of, one_run, selected, values
from fairkv_eval.storage.bits import PLAIN_BITS

Losses = dict[str, tuple[str, Floats]]  # {task: (metric, losses by document)}


@dataclass(frozen=True)
class Size:
    """What a policy achieved on a task: the share of pairs that it evicted, and of bytes that it holds."""

    ratio: float
    held: float


@dataclass(frozen=True)
class Loss:
    """A candidate's loss on one task: mean over n documents, and the upper bound that holds with the confidence.

    ``needed``: the number of documents with such losses at which the candidate would pass; None if no number would do.
    """

    task: str
    metric: str
    n: int
    mean: float
    bound: float
    needed: int | None


@dataclass(frozen=True)
class Candidate:
    """A policy: its achieved ratio, the share of the full cache's bytes that it holds, its losses, and whether it and
    all before it in its family passed their tests."""

    policy: RecordedPolicy
    ratio: float
    held: float
    losses: tuple[Loss, ...]
    passed: bool


@dataclass(frozen=True)
class Recommendation:
    """``families``: candidates by press and setting, weakest compression first. ``best``: the strongest that passed.

    ``level``: the error allowed to each family, alpha over their number. ``left_out``: results that were not tested.
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
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Recommendation:
    """Test every compressed policy in these results against the full cache.

    ``metric``: default each task's main one. With several tasks a policy must stay within the bound on each.
    ``value_range``: the least and the greatest possible value of the metric. Raise UsageError for a value outside it,
    results of several models or conditions, a full cache that is missing or without samples, and several responses to
    a prompt.
    """
    _check(max_drop, alpha, value_range)
    selection = selected(paths, model, tasks)
    by_task = one_run(selection.records)
    _check_independent(selection.records)
    losses, sizes, left_out = _losses_by_policy(by_task, metric, value_range)
    complete = {policy: by_policy for policy, by_policy in losses.items() if len(by_policy) == len(by_task)}
    left_out = [f"{problem.path.name}: {problem.reason}" for problem in selection.problems] + left_out
    left_out += [f"{policy.label}: no result of every task" for policy in losses if policy not in complete]
    if not complete:
        raise UsageError("no compressed policy with a result of every task, so there is nothing to recommend")
    families = families_of(complete, sizes)
    level = alpha / len(families)
    width = value_range[1] - value_range[0]
    tested = [tested_in_sequence(family, complete, sizes, max_drop, level, width) for family in families]
    passed = [candidate for family in tested for candidate in family if candidate.passed]
    best = min(passed, key=lambda c: (c.held, max(loss.mean for loss in c.losses)), default=None)
    return Recommendation(selection.records[0].model, max_drop, alpha, level, tested, best, left_out)


def _losses_by_policy(
    by_task: Mapping[str, Sequence[Record]], metric: str | None, value_range: tuple[float, float]
) -> tuple[dict[RecordedPolicy, Losses], dict[RecordedPolicy, list[Size]], list[str]]:
    """The losses of every compressed policy, its size on each task, and what lacks the metric."""
    losses: dict[RecordedPolicy, Losses] = {}
    sizes: dict[RecordedPolicy, list[Size]] = {}
    left_out = []
    for task, records in by_task.items():
        full = full_cache(records)
        name = metric_of(full, metric)
        reference = _in_range(values(full, name), value_range, full, name)
        for record in records:
            if record.policy.full:
                continue
            if name not in record.metrics:
                left_out.append(f"{record.policy.label}: its result of {task} has no {name}")
                continue
            try:
                scores = values(record, name)
                of_task = _losses(reference, scores, full, name)
            except UsageError as error:
                left_out.append(f"{record.policy.label}: {error}")
                continue
            _in_range(scores, value_range, record, name)
            losses.setdefault(record.policy, {})[task] = (name, of_task)
            achieved = record.policy.ratio if record.achieved_ratio is None else record.achieved_ratio
            # Results from before bytes were measured hold pairs in full.
            held = 1 - achieved if record.held is None else record.held
            sizes.setdefault(record.policy, []).append(Size(achieved, held))
    return losses, sizes, left_out


def tested_in_sequence(
    family: list[RecordedPolicy],
    losses: Mapping[RecordedPolicy, Losses],
    sizes: Mapping[RecordedPolicy, Sequence[Size]],
    max_drop: float,
    level: float,
    width: float,
) -> list[Candidate]:
    """A family's candidates, passed up to the first whose loss on some task may exceed the bound."""
    candidates: list[Candidate] = []
    for policy in family:
        by_task = tuple(_loss(task, *losses[policy][task], max_drop, level, width) for task in losses[policy])
        passed = all(loss.bound <= max_drop for loss in by_task) and all(c.passed for c in candidates)
        ratio = _mean([size.ratio for size in sizes[policy]])
        candidates.append(Candidate(policy, ratio, _held(sizes[policy]), by_task, passed))
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


def families_of(
    policies: Mapping[RecordedPolicy, Losses], sizes: Mapping[RecordedPolicy, Sequence[Size]]
) -> list[list[RecordedPolicy]]:
    """Policies that differ in their amount alone, or without a press in their bits and channels, weakest compression
    first."""
    families: dict[RecordedPolicy, list[RecordedPolicy]] = {}
    for policy in sorted(policies, key=lambda p: (p.label, -_held(sizes[p]))):
        bits: dict[str, Any] = {"kv_bits": PLAIN_BITS, "key_channels": 0.0} if policy.press_name == "none" else {}
        families.setdefault(replace(policy, ratio=0.0, budget=None, budget_bytes=None, **bits), []).append(policy)
    return [sorted(family, key=lambda p: (-_held(sizes[p]), p.ratio)) for family in families.values()]


def _held(sizes: Sequence[Size]) -> float:
    return _mean([size.held for size in sizes])


def _losses(full: Mapping[str, float], scores: Mapping[str, float], record: Record, metric: str) -> Floats:
    """Full cache minus policy for each document, so that a loss is positive; the documents must be the same."""
    if set(full) != set(scores):
        raise UsageError(
            f"metric {metric} of task {record.task} is on other documents under a policy than with full cache"
        )
    gaps = np.asarray([full[document] - scores[document] for document in full])
    return gaps if direction(record, metric) else -gaps


def _in_range(
    scores: Mapping[str, float], value_range: tuple[float, float], record: Record, metric: str
) -> Mapping[str, float]:
    low, high = value_range
    outside = next((value for value in scores.values() if not low - 1e-9 <= value <= high + 1e-9), None)
    if outside is not None:
        raise UsageError(
            f"{record.path.name}: {metric} of task {record.task} is {outside:g} for a document, outside "
            f"{low:g} to {high:g}; the guarantee needs the range it can have, --range LOW HIGH"
        )
    return scores


def _check_independent(records: Sequence[Record]) -> None:
    """UsageError for several documents of one prompt: the guarantee needs documents drawn independently."""
    for record in records:
        responses = record.arguments["metadata"].get("num_responses")
        if isinstance(responses, (int, float)) and responses > 1:
            raise UsageError(
                f"{record.path.name}: task {record.task} has num_responses={responses:g} documents of each prompt, "
                "which are not independent, as the guarantee needs; run it with num_responses=1"
            )


def _check(max_drop: float, alpha: float, value_range: tuple[float, float]) -> None:
    low, high = value_range
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
