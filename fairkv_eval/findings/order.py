"""Finding 4: the order of defense and directive decides which of them is hurt.

The two orders are two tasks made from the same data, so their documents are paired by number and target.
"""

from __future__ import annotations

from collections.abc import Iterator

from fairkv_eval.bootstrap import Floats
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import KEPT, Measure, following, leakage, tasks
from fairkv_eval.findings.twins import claim, contrasts
from fairkv_eval.results.recorded_policy import RecordedPolicy

_DIRECTIVE = KEPT[1]


def order(model: ModelCells) -> Finding:
    pairs = [(flipped, usual) for flipped in tasks(model, True) if (usual := _counterpart(model, flipped))]
    follows = [row for pair in pairs for row in _rows(*pair, "following")]
    leaks = [row for pair in pairs for row in _rows(*pair, "leakage")]
    kept = [row for pair in pairs for row in _kept(*pair)]
    needs = "sys_ifeval_defended and sys_ifeval_flipped under the same plain policies, and the full cache of both"
    claims = [
        claim("loss of following (full cache − plain), directive first − defense first", needs, follows),
        claim("directive kept, directive first − defense first", needs, kept),
    ]
    if leaks:
        claims.append(claim("rise of leakage (plain − full cache), directive first − defense first", needs, leaks))
    return Finding(
        "order",
        "The order decides who is hurt: what stands first is evicted first",
        "flipping the order flips who is hurt",
        tuple(claims),
    )


def _counterpart(model: ModelCells, flipped: TaskCells) -> TaskCells | None:
    """The task of the other order that shares most documents, half of the flipped one's at least."""
    others = [cells for cells in tasks(model, False) if all(cells.has(metric) for metric in KEPT)]
    shared = {cells.task: len(set(cells.origins) & set(flipped.origins)) for cells in others}
    best = max(others, key=lambda cells: shared[cells.task], default=None)
    return best if best and 2 * shared[best.task] >= len(flipped.origins) else None


def _rows(flipped: TaskCells, usual: TaskCells, kind: str) -> Iterator[Contrast]:
    """A loss is positive if following falls; a rise is the change of a metric of leakage, whatever its direction."""
    measures = following if kind == "following" else leakage
    pair = ModelCells("", {cells.task: cells for cells in (flipped, usual)})
    for measure in measures(pair, flipped=False):
        if flipped.has(measure.metric):
            changes = _changes(flipped, usual, measure.metric, against_full=True)
            if kind == "following":
                changes = {press: [-change for change in of_press] for press, of_press in changes.items()}
            expected = 1 if kind == "following" else measure.better
            yield from contrasts(_named(flipped, measure.metric), changes, expected)


def _kept(flipped: TaskCells, usual: TaskCells) -> list[Contrast]:
    if not flipped.has(_DIRECTIVE):
        return []
    changes = _changes(flipped, usual, _DIRECTIVE, against_full=False)
    return contrasts(_named(flipped, _DIRECTIVE), changes, -1)


def _named(flipped: TaskCells, metric: str) -> Measure:
    return Measure(flipped, metric, 1)


def _changes(flipped: TaskCells, usual: TaskCells, metric: str, against_full: bool) -> dict[str, list[Floats]]:
    """{press: flipped − usual of each policy that both have, ``[documents]`` of both}."""
    here, there = _places(flipped, usual)
    first, second = (_by_policy(cells, metric, against_full) for cells in (flipped, usual))
    changes: dict[str, list[Floats]] = {}
    for press, policies in flipped.plain().items():
        both = [policy for policy in policies.values() if policy in first and policy in second]
        if both:
            changes[press] = [first[policy][here] - second[policy][there] for policy in both]
    return changes


def _by_policy(cells: TaskCells, metric: str, against_full: bool) -> dict[RecordedPolicy, Floats]:
    """The values of each plain policy, minus the full cache's if wanted."""
    full = cells.values(cells.full, metric) if cells.full else None
    if against_full and full is None:
        return {}
    plain = [policy for by_ratio in cells.plain().values() for policy in by_ratio.values()]
    values = {policy: cells.values(policy, metric) for policy in plain}
    less = full if against_full and full is not None else 0.0
    return {policy: of - less for policy, of in values.items() if of is not None}


def _places(a: TaskCells, b: TaskCells) -> tuple[list[int], list[int]]:
    """The places of the documents that both have, in each."""
    places = {origin: place for place, origin in enumerate(b.origins)}
    shared = [(place, places[origin]) for place, origin in enumerate(a.origins) if origin in places]
    return [here for here, _ in shared], [there for _, there in shared]
