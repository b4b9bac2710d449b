"""A question of ours: at equal bytes, is it better to evict, to merge, to quantize or to evict less and quantize?

Each kind is represented by its best policy at the bytes nearest to those of a policy of fewer bits, or without one of a
merging policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from fairkv_eval.bootstrap import Floats
from fairkv_eval.eviction.policy_arguments import DEFAULTS
from fairkv_eval.findings.cells import ModelCells, TaskCells, evicts_only
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import FOLLOWING, KL, Measure, following, leakage, tasks
from fairkv_eval.findings.twins import claim, contrasts
from fairkv_eval.results.recorded_policy import RecordedPolicy
from fairkv_eval.storage.bits import PLAIN_BITS

Kind = Literal["evict", "merge", "quantize", "evict and quantize"]

FARTHEST = 0.05  # of the full cache's bytes: sizes that are farther apart are not equal
ALIKE = 0.01  # sizes that count as one

_COMPARED: tuple[tuple[Kind, Kind], ...] = (
    ("quantize", "evict"),
    ("quantize", "merge"),
    ("merge", "evict"),
    ("evict and quantize", "evict"),
    ("quantize", "evict and quantize"),
)
_SET_THE_SIZE: tuple[Kind, ...] = ("quantize", "merge", "evict and quantize")  # the first that there is
_NEEDS = {
    "quantize": "policies of fewer bits alone (press none, kv_bits below 16)",
    "merge": "merging policies (merge=)",
    "evict": "evicting policies",
    "evict and quantize": "evicting policies of fewer bits",
}


def equal_bytes(model: ModelCells) -> Finding:
    measures = [measure for measure in following(model, None) if measure.metric == FOLLOWING[0]]
    measures += [*(Measure(cells, KL, -1) for cells in tasks(model) if cells.has(KL)), *leakage(model, None)]
    claims = []
    for first, second in _COMPARED:
        rows = [row for measure in measures for row in _rows(measure, first, second)]
        needs = f"{_NEEDS[first]} and {_NEEDS[second]} that hold the same bytes"
        claims.append(claim(f"best that can {first} − best that can {second}, at equal bytes", needs, rows))
    return Finding(
        "equal_bytes",
        "At equal bytes, fewer bits are better than fewer pairs, and merging is better than evicting",
        "",
        tuple(claims),
    )


def kind_of(policy: RecordedPolicy) -> Kind | None:
    """What makes a policy's cache smaller; None for the full cache, for other things at once, and with a whitelist,
    since a whitelist knows what matters."""
    packed = policy.kv_bits != PLAIN_BITS or bool(policy.key_channels)
    if policy.decode_budget is not None or policy.keep:
        return None
    if packed and policy.evicts:
        unpacked = replace(policy, kv_bits=DEFAULTS["kv_bits"], key_channels=DEFAULTS["key_channels"])
        return "evict and quantize" if evicts_only(unpacked) else None
    if packed:
        return "quantize"
    if policy.evicts and policy.merge != DEFAULTS["merge"]:
        return "merge"
    return "evict" if evicts_only(policy) else None


def _rows(measure: Measure, first: Kind, second: Kind) -> Iterator[Contrast]:
    by_size: dict[str, list[Floats]] = {}
    words = []
    for size in _sizes(measure.cells):
        best = [_best(measure, kind, size) for kind in (first, second)]
        values = [measure.cells.values(policy, measure.metric) for policy in best if policy is not None]
        if len(values) == 2 and values[0] is not None and values[1] is not None:
            by_size[f"{size:.0%} of bytes"] = [values[0] - values[1]]
            words.append(f"{size:.0%}: " + " − ".join(policy.label for policy in best if policy is not None))
    for row in contrasts(measure, by_size, measure.better):
        yield replace(row, detail="; ".join(words))


def _sizes(cells: TaskCells) -> list[float]:
    """The shares of bytes that the policies of the kind hold which sets the size, each once."""
    by_kind = _held_by_kind(cells)
    sizes: list[float] = []
    for size in sorted(next((by_kind[kind].values() for kind in _SET_THE_SIZE if kind in by_kind), ())):
        if not sizes or size - sizes[-1] > ALIKE:
            sizes.append(size)
    return sizes


def _held_by_kind(cells: TaskCells) -> dict[Kind, dict[RecordedPolicy, float]]:
    by_kind: dict[Kind, dict[RecordedPolicy, float]] = {}
    for policy, record in cells.records.items():
        kind = kind_of(policy)
        if kind and record.held is not None:
            by_kind.setdefault(kind, {})[policy] = record.held
    return by_kind


def _best(measure: Measure, kind: Kind, size: float) -> RecordedPolicy | None:
    """The best of those at the bytes nearest to a size; None if none is near."""
    distances: Mapping[RecordedPolicy, float] = {
        policy: abs(held - size)
        for policy, held in _held_by_kind(measure.cells).get(kind, {}).items()
        if measure.cells.values(policy, measure.metric) is not None
    }
    nearest = min(distances.values(), default=np.inf)
    near = [policy for policy, distance in distances.items() if distance <= nearest + ALIKE]
    return max(near, key=lambda policy: _quality(measure, policy)) if nearest <= FARTHEST else None


def _quality(measure: Measure, policy: RecordedPolicy) -> tuple[float, str]:
    values = measure.cells.values(policy, measure.metric)
    return (measure.better * float(np.nanmean(values)), policy.label) if values is not None else (-np.inf, "")
