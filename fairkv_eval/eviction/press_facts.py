"""What a list says of a press beside its texts: what scoring costs, and what the press cannot be combined with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

# What scoring a prefilled layer of n tokens costs, from cheap to dear. `free`: one look at each key or value, or the
# attention of a fixed number of queries.
FREE, SECOND_PASS = "free", "second pass"
DECLARED_COSTS = (FREE, "O(n)", "O(n²)")
_COSTS = (*DECLARED_COSTS, SECOND_PASS)


class Listed(Protocol):
    """A press or what its file declares."""

    @property
    def cost(self) -> str: ...
    @property
    def base(self) -> Any: ...
    @property
    def default_base(self) -> str | None: ...
    @property
    def functions(self) -> Mapping[str, Any]: ...
    @property
    def sets_amount(self) -> bool: ...


def cost_of(press: Listed) -> str:
    """What it costs with what it wraps; "" if its file does not say."""
    if "replay" in press.functions:
        return SECOND_PASS
    costs = [cost for cost in (press.cost, cost_of(press.base) if press.base else "") if cost]
    return max(costs, key=_COSTS.index, default="")


def exclusions_of(press: Listed, decodes: bool, even: bool, refused_by: list[str]) -> list[str]:
    """What it cannot be combined with, as typed. decodes, even: whether it scores while decoding, and keeps equally
    many pairs everywhere; refused_by: the wrappers that refuse it by name."""
    amounts = ["ratio", "budget", "budget_bytes"] * press.sets_amount
    decoding = [] if decodes else ["decode_budget", "merge=cam"]
    positions = [] if even else ["positions=contiguous"]
    wrapper = press.base is not None or press.default_base is not None
    alone = wrapper or press.sets_amount or "replay" in press.functions
    base = ["any wrapper"] if alone else [f"press={name}" for name in refused_by]
    return [*amounts, *decoding, *positions, *base]
