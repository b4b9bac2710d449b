"""Fewer cases than all combinations: every two values of two parameters meet in one of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any


def pairwise(*parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Combinations of the parameters' values, taken one by one: the next one has the most pairs that have not met."""
    combinations = list(itertools.product(*(range(len(values)) for values in parameters)))
    missing = {pair for combination in combinations for pair in _pairs(combination)}
    chosen = []
    while missing:
        best = max(combinations, key=lambda combination: len(missing & _pairs(combination)))
        missing -= _pairs(best)
        chosen.append(tuple(values[place] for values, place in zip(parameters, best, strict=True)))
    return chosen


def _pairs(combination: Sequence[int]) -> set[Any]:
    return set(itertools.combinations(enumerate(combination), 2))
