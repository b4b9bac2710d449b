"""One way to compress in kvpress, and what it is called here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# n·(1−ratio) of these is a whole number in binary fractions too, for the 300 tokens of the context.
EXACT_RATIOS = (0.25, 0.5, 0.75)


class Case(NamedTuple):
    """press, base, parameters: as they are typed here. make: kvpress's press at a ratio. attention: the implementation
    that it runs with; eager shows its weights, which some presses read and others refuse."""

    press: str
    make: Callable[[float], Any]
    parameters: Mapping[str, Any] = {}
    base: str | None = None
    ratios: tuple[float, ...] = EXACT_RATIOS
    attention: str = "sdpa"
