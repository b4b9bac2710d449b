"""Records against each other on the same documents: to the full cache, fair to plain, and all policies by rank."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from fairkv_eval.analysis import paired
from fairkv_eval.results.record import Record

ALPHA = 0.05  # below which a corrected p-value tells two policies apart

Values = Mapping[str, Mapping[str, float]]  # {metric: {document: value}}


@dataclass
class Comparison:
    """What is known of one record's metric beyond its value.

    ``vs_full``: record − full cache; ``vs_plain``: fair − plain. Each comes with its p-value corrected (Holm) over all
    differences of its kind on this task and metric. ``rank`` among the policies of the same model and conditions: 1 +
    how many are significantly better.
    """

    vs_full: tuple[paired.Difference, float] | None = None
    vs_plain: tuple[paired.Difference, float] | None = None
    rank: int | None = None


@dataclass
class _Asked:
    """Differences of one kind that are corrected together."""

    where: list[tuple[int, str]] = field(default_factory=list)
    pairs: list[tuple[list[float], list[float]]] = field(default_factory=list)


def compare(records: Sequence[Record], values: Sequence[Values]) -> dict[tuple[int, str], Comparison]:
    """{(index of the record, metric): comparison}; ``values[i]`` are those of ``records[i]``.

    Only metrics with a better direction are compared, and only records that share model, weights, conditions, task and
    version (`Record.run`). A record without values has no comparison.
    """
    found: dict[tuple[int, str], Comparison] = {
        (index, metric): Comparison()
        for index, (record, given) in enumerate(zip(records, values, strict=True))
        for metric in given
        if record.higher_is_better.get(metric) is not None
    }
    runs: dict[Any, list[int]] = {}
    for index, record in enumerate(records):
        if values[index]:
            runs.setdefault(record.run, []).append(index)
    with _out_of_collection():
        for kind, partners in (("vs_full", _full_caches), ("vs_plain", _plain_twins)):
            asked: dict[tuple[str, str], _Asked] = {}
            for members in runs.values():
                for index, other in partners(records, members):
                    _ask(asked, records[index].task, index, values[index], values[other], found)
            _answer(asked, kind, found)
        for members in runs.values():
            _rank(records, members, values, found)
    return found


@contextmanager
def _out_of_collection() -> Iterator[None]:
    """What exists when ``gc.freeze`` is called is left alone by the collector until the end. statsmodels' correction
    runs a full collection each time, which on a thousand results takes longer than everything else."""
    try:
        yield
    finally:
        gc.unfreeze()


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


def _ask(asked: dict, task: str, index: int, mine: Values, others: Values, found: Mapping) -> None:
    for metric, given in mine.items():
        theirs = others.get(metric)
        if not theirs or (index, metric) not in found:
            continue
        documents = _common([given, theirs])
        if documents:
            entry = asked.setdefault((task, metric), _Asked())
            entry.where.append((index, metric))
            entry.pairs.append((_of(given, documents), _of(theirs, documents)))


def _common(given: Sequence[Mapping[str, float]]) -> list[str]:
    """The documents that all have, in the first's order."""
    shared = set(given[0]).intersection(*given[1:])
    return list(given[0]) if len(shared) == len(given[0]) else [d for d in given[0] if d in shared]


def _of(given: Mapping[str, float], documents: list[str]) -> list[float]:
    return list(map(given.__getitem__, documents))


def _answer(asked: Mapping[Any, _Asked], kind: str, found: Mapping[tuple[int, str], Comparison]) -> None:
    groups = list(asked.values())
    told = iter(paired.differences([pair for group in groups for pair in group.pairs]))
    for group in groups:
        gc.freeze()
        differences = [next(told) for _ in group.pairs]
        corrected = paired.holm([difference.p for difference in differences])
        for where, difference, p in zip(group.where, differences, corrected, strict=True):
            setattr(found[where], kind, (difference, p))


def _rank(records: Sequence[Record], members: Sequence[int], values: Sequence[Values], found: Mapping) -> None:
    metrics = dict.fromkeys(metric for i in members for metric in values[i] if (i, metric) in found)
    for metric in metrics:
        able = [i for i in members if metric in values[i]]
        documents = _common([values[i][metric] for i in able])
        if not documents:
            continue
        gc.freeze()
        scores = {str(i): _of(values[i][metric], documents) for i in able}
        higher = bool(records[able[0]].higher_is_better[metric])
        for place in paired.ranks(scores, higher_is_better=higher, alpha=ALPHA):
            found[int(place.name), metric].rank = place.rank
