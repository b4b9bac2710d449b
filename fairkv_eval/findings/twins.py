"""Cells that differ in one argument, compared document by document and averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from fairkv_eval.bootstrap import Floats
from fairkv_eval.findings.cells import Partner, TaskCells, evicts_only, press_of
from fairkv_eval.findings.contrast import ALL, Contrast, averaged, of_documents
from fairkv_eval.findings.finding import Claim, Rule
from fairkv_eval.findings.measures import Measure

Pairs = Mapping[str, Sequence[Partner]]  # {press: [(policy, its twin)]}
Values = Mapping[str, Sequence[tuple[Floats, Floats]]]  # {press: [those of a policy, those of its twin]}
Sides = tuple[str, str]  # what a policy and its twin are called

FAIR: Sides = ("fair", "plain")
FULL: Sides = ("plain", "full cache")
WHITELISTED: Sides = ("whitelisted", "not")


def fair_pairs(cells: TaskCells, degree: float = 1.0) -> dict[str, list[Partner]]:
    """(fair to this degree, plain), by press."""
    pairs: dict[str, list[Partner]] = {}
    for policy in cells.records:
        twin = replace(policy, fair=0.0)
        if policy.fair == degree and not policy.keep and evicts_only(policy) and twin in cells.records:
            pairs.setdefault(cells.presses[press_of(policy)], []).append((policy, twin))
    return pairs


def whitelist_pairs(cells: TaskCells) -> dict[str, list[Partner]]:
    """(with a whitelist, without), by press; both plain."""
    pairs: dict[str, list[Partner]] = {}
    for policy in cells.records:
        twin = replace(policy, keep=())
        if policy.keep and not policy.fair and evicts_only(policy) and twin in cells.records:
            pairs.setdefault(cells.presses[press_of(policy)], []).append((policy, twin))
    return pairs


def full_pairs(cells: TaskCells) -> dict[str, list[Partner]]:
    """(plain, full cache), by press; {} without a full cache."""
    full = cells.full
    return {press: [(p, full) for p in by_ratio.values()] for press, by_ratio in cells.plain().items()} if full else {}


def measured_pairs(measure: Measure, pairs: Pairs) -> dict[str, list[Partner]]:
    """The pairs whose policies both have the metric, by press; without presses that have none."""
    tables, metric = measure.cells.tables, measure.metric
    of_presses = {
        press: [(policy, twin) for policy, twin in of_press if metric in tables[policy] and metric in tables[twin]]
        for press, of_press in pairs.items()
    }
    return {press: of_press for press, of_press in of_presses.items() if of_press}


def differences(measure: Measure, pairs: Pairs) -> dict[str, list[Floats]]:
    """{press: policy − twin, ``[documents]``, of each pair that has the metric}; without presses that have none."""
    return _differences(_values(measure, pairs))


def _differences(values: Values) -> dict[str, list[Floats]]:
    return {press: [of - twin for of, twin in of_press] for press, of_press in values.items()}


def _values(measure: Measure, pairs: Pairs) -> dict[str, list[tuple[Floats, Floats]]]:
    """{press: both values ``[documents]`` of each pair that has the metric}; without presses that have none."""
    tables, metric = measure.cells.tables, measure.metric
    return {
        press: [(tables[policy][metric], tables[twin][metric]) for policy, twin in of_press]
        for press, of_press in measured_pairs(measure, pairs).items()
    }


def contrasts(measure: Measure, by_press: Mapping[str, Sequence[Floats]], expected: int) -> list[Contrast]:
    """The mean of each press's differences, and before them the mean over the presses; [] without any."""
    if not by_press:
        return []
    means = {press: averaged(of_press) for press, of_press in by_press.items()}
    counts = {press: len(of_press) for press, of_press in by_press.items()}
    means = {ALL: averaged(list(means.values())), **means}
    counts = {ALL: sum(counts.values()), **counts}
    name = (measure.cells.task, measure.metric)
    rows = [
        of_documents(values, group, *name, cells=counts[group], expected=expected, points=measure.points)
        for group, values in means.items()
    ]
    return [row for row in rows if row is not None]


def claim(measured: str, needs: str, rows: Iterable[Contrast], rule: Rule = "differs") -> Claim:
    """A claim of these rows, those over all presses apart from those of each."""
    rows = list(rows)
    over_all = tuple(row for row in rows if row.group == ALL)
    return Claim(measured, needs, over_all, tuple(row for row in rows if row.group != ALL), rule)


def paired_claim(
    kind: str,
    sides: Sides,
    needs: str,
    measures: Iterable[Measure],
    pairs_of: Callable[[TaskCells], Pairs],
    sign: int,
    rule: Rule = "differs",
) -> Claim:
    """The claim that policies are better than their twins by these measures (sign 1), or worse (−1)."""
    rows = [row for of in measures for row in paired_contrasts(of, pairs_of(of.cells), sides, sign)]
    return claim(f"{kind}, {' − '.join(sides)}", needs, rows, rule)


def paired_contrasts(measure: Measure, pairs: Pairs, sides: Sides, sign: int) -> list[Contrast]:
    """`contrasts` of these pairs, each with the means of both sides; those over all presses with the full cache's too,
    since a model that never follows has nothing to lose."""
    values, full = _values(measure, pairs), _full_cache(measure)
    rows = contrasts(measure, _differences(values), sign * measure.better)
    described = []
    for row in rows:
        means = dict(zip(sides, levels(values, row.group), strict=True))
        if full is not None and row.group == ALL:
            means["full cache"] = full
        detail = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
        described.append(replace(row, stake=math.inf if full is None else full, detail=detail))
    return described


def levels(values: Values, group: str) -> tuple[float, float]:
    """The means of policies and of their twins, over the documents, ratios and presses of a group's contrast."""
    presses = values if group == ALL else (group,)
    first, second = (averaged([averaged([of[side] for of in values[press]]) for press in presses]) for side in (0, 1))
    both = ~np.isnan(first - second)
    return float(first[both].mean()), float(second[both].mean())


def _full_cache(measure: Measure) -> float | None:
    full = measure.cells.full
    values = None if full is None else measure.cells.values(full, measure.metric)
    return None if values is None else float(np.nanmean(values))
