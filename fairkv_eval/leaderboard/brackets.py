"""Places by value, and the brackets that join those which no test sets apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fairkv_eval.analysis.all_runs import Key, Standing
from fairkv_eval.results.record import Record, direction

Bracket = tuple[int, int]  # the first and the last place


def brackets(records: Sequence[Record], standing: Mapping[Key, Standing]) -> dict[Key, Bracket]:
    """The bracket of each record and metric that has a rank, among the records that it is ranked with."""
    groups: dict[tuple[object, str], list[Key]] = {}
    for key in standing:
        if standing[key].rank is not None and math.isfinite(records[key[0]].metrics[key[1]].value):
            groups.setdefault((records[key[0]].run, key[1]), []).append(key)
    joined: dict[Key, Bracket] = {}
    for (_, metric), keys in groups.items():
        sign = -1 if direction(records[keys[0][0]], metric) else 1
        by_value = sorted(keys, key=lambda key: sign * records[key[0]].metrics[key[1]].value)
        joined |= zip(by_value, bracketed([standing[key].rank or 1 for key in by_value]), strict=True)
    return joined


def bracketed(ranks: Sequence[int]) -> list[Bracket]:
    """The bracket of each place, given the ranks in the order of the values, best first.

    A rank is 1 + how many are significantly better. Pairs differ in spread, so ranks need not rise with the places.
    A bracket therefore ends only before a place from which on every rank is higher than its own: what stands in a later
    bracket is beaten by more, and nothing that ties with the best of a bracket stands below it.
    """
    lowest = list(ranks)  # of this place and all below
    for place in range(len(ranks) - 2, -1, -1):
        lowest[place] = min(ranks[place], lowest[place + 1])
    first = {rank: place for place, rank in reversed(list(enumerate(lowest, 1)))}
    last = {rank: place for place, rank in enumerate(lowest, 1)}
    return [(first[rank], last[rank]) for rank in lowest]
