"""Questions of ours about fairness: what it costs in fidelity and buys in refusals, and whether it helps following."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fairkv_eval.findings.cells import ModelCells, TaskCells, evicts_only
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import KEPT, KL, REFUSED, Measure, following, leakage, tasks
from fairkv_eval.findings.twins import FAIR, Pairs, claim, fair_pairs, paired_claim, paired_contrasts
from fairkv_eval.results.recorded_policy import RecordedPolicy


def price(model: ModelCells) -> Finding:
    """Of whole fairness over all presses, and by degree over policies that were run at all degrees."""
    fidelity = [Measure(cells, KL, -1) for cells in tasks(model) if cells.has(KL)]
    refusals = [measure for measure in leakage(model) if measure.metric in (REFUSED, "acc")]
    cells = "a press with fair=0 and fair=1 at the same ratio"
    claims = [
        paired_claim("KL to the full cache in nats", FAIR, f"{cells}, with fidelity", fidelity, fair_pairs, -1),
        paired_claim("refusals", FAIR, f"{cells}, on raccoon_plain", refusals, fair_pairs, 1),
    ]
    for kind, measures, sign in (("KL to the full cache in nats", fidelity, -1), ("refusals", refusals, 1)):
        rows = [row for measure in measures for row in _by_degree(measure, sign)]
        claims += [claim(f"{kind}, fair − plain, by degree", "", rows)] * bool(rows)
    return Finding("price", "Fairness costs fidelity and buys refusals", "", tuple(claims))


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
    """The contrasts of each degree, the whole one first; the metric names it. None if no other was run."""
    by_degree = {degree: fair_pairs(measure.cells, degree) for degree in _degrees(measure.cells)}
    measured = {degree: twins for degree, pairs in by_degree.items() if (twins := _plain_twins(measure, pairs))}
    everywhere = set.intersection(*measured.values()) if len(measured) > 1 else set()
    for degree in measured:
        pairs = {press: [pair for pair in of if pair[1] in everywhere] for press, of in by_degree[degree].items()}
        for row in paired_contrasts(measure, pairs, FAIR, sign):
            yield replace(row, metric=f"{row.metric}, fair={degree:g}")


def _plain_twins(measure: Measure, pairs: Pairs) -> set[RecordedPolicy]:
    """The plain policies of the pairs that have the metric."""
    both = (pair for of_press in pairs.values() for pair in of_press)
    return {twin for of, twin in both if all(measure.cells.values(p, measure.metric) is not None for p in (of, twin))}


def _degrees(cells: TaskCells) -> list[float]:
    return sorted({p.fair for p in cells.records if p.fair and not p.keep and evicts_only(p)}, reverse=True)
