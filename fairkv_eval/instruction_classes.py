"""The classes of IFEval's instructions: an id ``keywords:existence`` is of the class ``keywords``.

Task metrics and the breakdown of samples use them, and neither may import the other: so they stand below both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

CLASSES = (
    "keywords",
    "detectable_format",
    "length_constraints",
    "change_case",
    "startend",
    "punctuation",
    "combination",
    "detectable_content",
    "language",
)


def class_of(instruction_id: str) -> str:
    """The part of the id before the colon."""
    return instruction_id.partition(":")[0]


def by_class(instruction_ids: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    """The mean value of each class; of booleans the share that is true."""
    groups: dict[str, list[float]] = {}
    for instruction_id, value in zip(instruction_ids, values, strict=True):
        groups.setdefault(class_of(instruction_id), []).append(value)
    return {name: math.fsum(members) / len(members) for name, members in groups.items()}
