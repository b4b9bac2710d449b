"""Many records on the same documents: each against the full cache, fair against plain, and all policies by rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fairkv_eval.analysis import paired
from fairkv_eval.bootstrap import Floats
from fairkv_eval.results.record import Record, direction
from fairkv_eval.results.samples import Column

ALPHA = 0.05  # a corrected p-value below it sets two policies apart

Values = Mapping[str, Column]  # by metric
Key = tuple[int, str]  # index of a record, and a metric
Corrected = tuple[paired.Difference, float]  # a difference with its corrected p-value


@dataclass(frozen=True, slots=True)
class Standing:
    """How one record's metric stands among the others.

    ``vs_full``: record − full cache; ``vs_plain``: fair − plain. The p-value of each is corrected (Holm) over all
    differences of its kind on this task and metric. ``rank`` among the policies of the same model and conditions: 1 +
    how many are significantly better.
    """

    vs_full: Corrected | None = None
    vs_plain: Corrected | None = None
    rank: int | None = None


@dataclass
class _Pairs:
    """Differences that are corrected together: those of one kind, task and metric."""

    keys: list[Key] = field(default_factory=list)
    values: list[tuple[Floats, Floats]] = field(default_factory=list)


def standings(records: Sequence[Record], values: Sequence[Values]) -> dict[Key, Standing]:
    """{(index of the record, metric): standing}; ``values[i]`` are those of ``records[i]``.

    Only metrics with a better direction stand, and only records are compared that share model, weights, conditions,
    task and version (`Record.run`). A record without values has no standing.
    """
    directed = [
        {metric: metrics[metric] for metric in metrics if direction(record, metric) is not None}
        for record, metrics in zip(records, values, strict=True)
    ]
    runs: dict[Any, list[int]] = {}
    for index, record in enumerate(records):
        if directed[index]:
            runs.setdefault(record.run, []).append(index)
    vs_full = _corrected(records, directed, runs.values(), _full_caches)
    vs_plain = _corrected(records, directed, runs.values(), _plain_twins)
    ranks = {key: rank for members in runs.values() for key, rank in _ranks(records, directed, members)}
    keys = [(index, metric) for index, metrics in enumerate(directed) for metric in metrics]
    return {key: Standing(vs_full.get(key), vs_plain.get(key), ranks.get(key)) for key in keys}


Partners = Callable[[Sequence[Record], Sequence[int]], Iterable[tuple[int, int]]]


def _full_caches(records: Sequence[Record], members: Sequence[int]) -> Iterable[tuple[int, int]]:
    """(record, its full cache): the run's own without a press, else any that evicts nothing."""
    full = [i for i in members if records[i].policy.full]
    if not full:
        return
    first = min(full, key=lambda i: (records[i].policy.press != "none", records[i].source != "fairkv"))
    yield from ((i, first) for i in members if not records[i].policy.full)


def _plain_twins(records: Sequence[Record], members: Sequence[int]) -> Iterable[tuple[int, int]]:
    """(fair record, the same policy with fair=0)."""
    plain = {records[i].policy: i for i in members if not records[i].policy.fair}
    for index in members:
        policy = records[index].policy
        twin = plain.get(replace(policy, fair=0.0))
        if policy.fair and not policy.full and twin is not None:
            yield index, twin


def _corrected(
    records: Sequence[Record], values: Sequence[Values], runs: Iterable[Sequence[int]], partners: Partners
) -> dict[Key, Corrected]:
    """The differences of all records to their partners."""
    groups: dict[tuple[str, str], _Pairs] = {}
    for index, partner in (pair for members in runs for pair in partners(records, members)):
        for metric in values[index]:
            if metric not in values[partner]:
                continue
            record, other = (values[i][metric] for i in (index, partner))
            if documents := _common([record, other]):
                group = groups.setdefault((records[index].task, metric), _Pairs())
                group.keys.append((index, metric))
                group.values.append((record.of(documents), other.of(documents)))
    differences = iter(paired.differences([pair for group in groups.values() for pair in group.values]))
    corrected: dict[Key, Corrected] = {}
    for group in groups.values():
        of_group = [next(differences) for _ in group.values]
        ps = paired.holm([difference.p for difference in of_group])
        corrected |= zip(group.keys, zip(of_group, ps, strict=True), strict=True)
    return corrected


def _ranks(records: Sequence[Record], values: Sequence[Values], members: Sequence[int]) -> Iterator[tuple[Key, int]]:
    """The rank of each member on each metric, over the documents that all of them have."""
    for metric in dict.fromkeys(metric for i in members for metric in values[i]):
        holders = [i for i in members if metric in values[i]]
        documents = _common([values[i][metric] for i in holders])
        if not documents:
            continue
        scores = {str(i): values[i][metric].of(documents) for i in holders}
        higher = bool(direction(records[holders[0]], metric))
        for place in paired.ranks(scores, higher_is_better=higher, alpha=ALPHA):
            yield (int(place.name), metric), place.rank


def _common(columns: Sequence[Column]) -> Sequence[str]:
    """The documents that all have, in the first's order."""
    first = columns[0].documents
    others = {id(column.documents): column.documents for column in columns if column.documents is not first}
    if not others:
        return first
    shared = set(first).intersection(*others.values())
    return first if len(shared) == len(first) else [document for document in first if document in shared]
