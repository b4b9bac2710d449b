"""Brackets: the places that no test sets apart."""

from __future__ import annotations

import random

import pytest

from fairkv_eval.leaderboard.brackets import bracketed


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([1, 1, 1], [(1, 3)] * 3),
        ([1, 2, 3], [(1, 1), (2, 2), (3, 3)]),
        ([1, 1, 3, 3], [(1, 2), (1, 2), (3, 4), (3, 4)]),
        ([1, 2, 1, 4], [(1, 3), (1, 3), (1, 3), (4, 4)]),  # the third ties with the first: nothing between is set apart
        ([1, 4, 3, 3], [(1, 1), (2, 4), (2, 4), (2, 4)]),
        ([], []),
    ],
)
def test_examples(ranks: list[int], expected: list[tuple[int, int]]) -> None:
    assert bracketed(ranks) == expected


@pytest.mark.parametrize("seed", range(40))
def test_against_plain_loops(seed: int) -> None:
    draw = random.Random(seed)
    ranks = [draw.randint(1, place) for place in range(1, draw.randint(2, 30))]
    ends = [
        p for p in range(1, len(ranks)) if all(later > earlier for later in ranks[p:] for earlier in ranks[p - 1 : p])
    ]
    expected = []
    first = 1
    for end in [*ends, len(ranks)]:
        expected += [(first, end)] * (end - first + 1)
        first = end + 1
    assert bracketed(ranks) == expected
