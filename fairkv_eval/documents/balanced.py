"""Balanced designs: which items stand together in a document, and in which order.

A block has as many documents as there are items. Each document holds `size` different items, no two of which clash.
Every item stands exactly once at every position of the block: a Latin rectangle whose rows respect the conflicts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from fairkv_eval.errors import UsageError

Clashes = Sequence[Sequence[bool]]  # [items][items], symmetric

STEPS = 600  # swaps per start: after these a fresh start is cheaper
STARTS = 400
NOISE = 0.03  # the share of random swaps, which lead out of dead ends


def block(size: int, clashes: Clashes, rng: random.Random) -> list[list[int]]:
    """The items of each document in their order, ``[items][size]``. Raises UsageError if it finds no arrangement."""
    for _ in range(STARTS):
        if (groups := _groups(size, clashes, rng)) is not None:
            return _ordered(groups, rng)
    raise UsageError(f"no balanced arrangement of {size} of {len(clashes)} instructions was found; try another seed")


def _groups(size: int, clashes: Clashes, rng: random.Random) -> list[list[int]] | None:
    """Sets of items without a clash, with every item in `size` of them: a rotated random order, repaired by swaps."""
    items = len(clashes)
    order = rng.sample(range(items), items)
    groups = [[order[(row + column) % items] for column in range(size)] for row in range(items)]
    for _ in range(STEPS):
        clashing = [(g, i) for g in range(items) for i in range(size) if _count(groups[g], groups[g][i], clashes)]
        if not clashing:
            return groups
        group, index = rng.choice(clashing)
        swaps = _swaps(groups, group, index, clashes)
        if not swaps:
            return None
        least = min(cost for cost, _, _ in swaps)
        best = swaps if rng.random() < NOISE else [swap for swap in swaps if swap[0] == least]
        _, other, place = rng.choice(best)
        groups[group][index], groups[other][place] = groups[other][place], groups[group][index]
    return None


def _swaps(groups: list[list[int]], group: int, index: int, clashes: Clashes) -> list[tuple[int, int, int]]:
    """Swaps for an item, each (change of the number of clashes, group, index), without those that repeat an item."""
    item = groups[group][index]
    rest = [y for y in groups[group] if y != item]
    swaps = []
    for other, members in enumerate(groups):
        if item in members:
            continue
        here = _count(members, item, clashes)
        for place, y in enumerate(members):
            if y in rest:
                continue
            gained = here - clashes[item][y] + _count(rest, y, clashes)
            swaps.append((gained - _count(members, y, clashes), other, place))
    return swaps


def _count(members: Sequence[int], item: int, clashes: Clashes) -> int:
    """How many of the members clash with an item."""
    return sum(clashes[item][y] for y in members)


def _ordered(groups: list[list[int]], rng: random.Random) -> list[list[int]]:
    """Order each group so that every item stands once at every position.

    Groups and items are a regular bipartite graph, which is a union of perfect matchings (König): one per position.
    """
    remaining = [rng.sample(group, len(group)) for group in groups]
    rows: list[list[int]] = [[] for _ in groups]
    for _ in range(len(groups[0])):
        owner: dict[int, int] = {}
        for group in rng.sample(range(len(groups)), len(groups)):
            _match(group, remaining, owner, set())
        for item, group in owner.items():
            rows[group].append(item)
            remaining[group].remove(item)
    return rows


def _match(group: int, remaining: list[list[int]], owner: dict[int, int], seen: set[int]) -> bool:
    """Assign an item to a group, moving other groups along an augmenting path (Kuhn)."""
    for item in remaining[group]:
        if item in seen:
            continue
        seen.add(item)
        if item not in owner or _match(owner[item], remaining, owner, seen):
            owner[item] = group
            return True
    return False
