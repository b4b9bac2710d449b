"""Contexts that begin alike: a tree over their tokens, each part of which is prefilled once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

# Shared tokens below which a part of its own costs more, in one more attention call a layer, than it saves.
SHORTEST = 32

Tokens = tuple[int, ...]


class States(NamedTuple):
    """Queries ``[heads, n, dim]``, keys and values ``[kv_heads, n, dim]`` of one layer, from the first token on.

    Queries are left out (n = 0) if nothing will read them.
    """

    q: Tensor
    k: Tensor
    v: Tensor

    def followed_by(self, more: States) -> States:
        """The states of these tokens and then those of others."""
        return States(*(torch.cat(pair, 1) for pair in zip(self, more, strict=True)))

    def first(self, n: int) -> States:
        """A copy of the first n tokens' states."""
        return States(*(states[:, :n].clone() for states in self))


@dataclass(eq=False)
class Part:
    """Tokens that some contexts have in common after those of ``parent``, from position ``start`` on.

    ``states_by_layer``: those of all tokens up to ``stop``, if an earlier pass has computed them.
    """

    tokens: Tokens
    start: int = 0
    parent: Part | None = None
    states_by_layer: list[States] = field(default_factory=list)

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two contexts share from their start; 0 if they are too few to be worth a part of their own."""
    n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return n if n >= SHORTEST else 0


def tree(contexts: Sequence[Tokens], stem: Part | None = None) -> tuple[list[Part], list[Part]]:
    """The parts to compute, parents first, and for each context the part it ends with.

    ``contexts`` differ from each other. Those that begin with all of ``stem``, which has been computed, branch off it.
    """
    parts: list[Part] = []
    ends: dict[Tokens, Part] = {}

    def grow(items: list[Tokens], parent: Part | None) -> None:
        start = parent.stop if parent else 0
        for _, run in groupby(items, key=lambda tokens: tokens[start : start + SHORTEST]):
            alike = list(run)
            stop = len(alike[0]) if len(alike) == 1 else common(alike[0], alike[-1])
            part = Part(alike[0][start:stop], start, parent)
            parts.append(part)
            ends.update((tokens, part) for tokens in alike if len(tokens) == stop)
            grow([tokens for tokens in alike if len(tokens) > stop], part)

    ordered = sorted(contexts)
    on_stem = [tokens for tokens in ordered if stem and tokens[: stem.stop] == stem.tokens]
    if stem:
        ends.update((tokens, stem) for tokens in on_stem if len(tokens) == stem.stop)
        grow([tokens for tokens in on_stem if len(tokens) > stem.stop], stem)
    grow([tokens for tokens in ordered if tokens not in set(on_stem)], None)
    return parts, [ends[tokens] for tokens in contexts]
