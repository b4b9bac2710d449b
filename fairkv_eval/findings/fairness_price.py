"""Questions of ours about fairness: what it costs in fidelity and buys in refusals, and whether it helps following."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fairkv_eval.findings.cells import ModelCells, TaskCells, evicts_only
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import KEPT, KL, REFUSED, Measure, following, leakage, tasks
from fairkv_eval.findings.twins import FAIR, claim, fair_pairs, measured_pairs, paired_claim, paired_contrasts


def price(model: ModelCells) -> Finding:
    """Of whole fairness over all presses, and by degree over policies that were run at all degrees."""
    fidelity = [Measure(cells, KL, -1) for cells in tasks(model) if cells.has(KL)]
    refusals = [measure for measure in leakage(model) if measure.metric in (REFUSED, "acc")]
    kinds = (
        ("KL to the full cache in nats", "with fidelity", fidelity, -1),
        ("refusals", "on raccoon_plain", refusals, 1),
    )
    cells = "a press with fair=0 and fair=1 at the same ratio"
    whole = [paired_claim(kind, FAIR, f"{cells}, {on}", of, fair_pairs, sign) for kind, on, of, sign in kinds]
    by_degree = [
        claim(f"{kind}, {' − '.join(FAIR)}, by degree", "", rows)
        for kind, _, of, sign in kinds
        if (rows := [row for measure in of for row in _by_degree(measure, sign)])
    ]
    return Finding("price", "Fairness costs fidelity and buys refusals", "", (*whole, *by_degree))


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


def _by_degree(measure: Measure, sign: int) -> Iterator[Contrast]:
    """The contrasts of each degree, the whole one first; the metric names it. Nothing if no other was run."""
    by_degree = {
        degree: measured_pairs(measure, fair_pairs(measure.cells, degree)) for degree in _degrees(measure.cells)
    }
    by_degree = {degree: pairs for degree, pairs in by_degree.items() if pairs}
    if len(by_degree) < 2:
        return
    twins = ({twin for of_press in pairs.values() for _, twin in of_press} for pairs in by_degree.values())
    everywhere = set.intersection(*twins)
    for degree, pairs in by_degree.items():
        shared = {press: [pair for pair in of_press if pair[1] in everywhere] for press, of_press in pairs.items()}
        for row in paired_contrasts(measure, shared, FAIR, sign):
            yield replace(row, metric=f"{row.metric}, fair={degree:g}")


def _degrees(cells: TaskCells) -> list[float]:
    return sorted({p.fair for p in cells.records if p.fair and not p.keep and evicts_only(p)}, reverse=True)
