"""Questions of ours about fairness: what it costs in fidelity and buys in refusals, and whether it helps following."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from fairkv_eval.findings.cells import ModelCells, TaskCells, evicts_only
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Claim, Finding
from fairkv_eval.findings.measures import KEPT, KL, REFUSED, Measure, following, leakage, tasks
from fairkv_eval.findings.twins import FAIR, claim, differences, fair_pairs, paired_claim, paired_contrasts


def price(model: ModelCells) -> Finding:
    """By degree; at each the same presses, those that were run at all degrees."""
    fidelity = [Measure(cells, KL, -1) for cells in tasks(model) if cells.has(KL)]
    refusals = [measure for measure in leakage(model) if measure.metric in (REFUSED, "acc")]
    cells = "a press with fair=0 and fair=1 (and degrees between) at the same ratio"
    return Finding(
        "price",
        "Fairness costs fidelity and buys refusals",
        "",
        (
            _by_degree("KL to the full cache in nats, fair − plain", f"{cells}, with fidelity", fidelity, -1),
            _by_degree("refusals, fair − plain", f"{cells}, on raccoon_plain", refusals, 1),
        ),
    )


def flipped_following(model: ModelCells) -> Finding:
    needs = "sys_ifeval_flipped under a press with fair=1 and with fair=0, at the same ratio"
    kept = [Measure(cells, KEPT[1], 1) for cells in tasks(model, True) if cells.has(KEPT[1])]
    return Finding(
        "flipped_following",
        "Fair eviction helps to follow a directive that would have been evicted first (flipped order)",
        "",
        (
            paired_claim("following", FAIR, needs, following(model, True), fair_pairs, 1),
            paired_claim("directive kept", FAIR, needs, kept, fair_pairs, 1),
        ),
    )


def _by_degree(measured: str, needs: str, measures: Iterable[Measure], sign: int) -> Claim:
    return claim(measured, needs, [row for measure in measures for row in _rows(measure, sign)])


def _rows(measure: Measure, sign: int) -> Iterator[Contrast]:
    """The contrasts of each degree, the whole one first; the metric names it."""
    by_degree = {degree: fair_pairs(measure.cells, degree) for degree in _degrees(measure.cells)}
    measured = [presses for pairs in by_degree.values() if (presses := set(differences(measure, pairs)))]
    everywhere = set.intersection(*measured) if measured else set()
    for degree, pairs in by_degree.items():
        chosen = {press: of_press for press, of_press in pairs.items() if press in everywhere}
        for row in paired_contrasts(measure, chosen, FAIR, sign):
            yield replace(row, metric=f"{row.metric}, fair={degree:g}")


def _degrees(cells: TaskCells) -> list[float]:
    return sorted({p.fair for p in cells.records if p.fair and not p.keep and evicts_only(p)}, reverse=True)
