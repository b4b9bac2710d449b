"""What a policy may say about its storage, checked without torch: bits of keys and values, and what shares a scale."""

from __future__ import annotations

import re
from typing import Any

from fairkv_eval.errors import UsageError

PLAIN_BITS = 16  # stands for the model's own type
BITS = (PLAIN_BITS, 8, 4, 3, 2)
PER_TOKEN, KIVI, ROTATED = "per_token", "kivi", "rotated"
SCHEMES = (PER_TOKEN, KIVI, ROTATED)


def split_bits(bits: Any) -> tuple[int, int]:
    """The bits of keys and of values: of 4, or of ``k4v2``. UsageError for others."""
    match = re.fullmatch(r"k(\d{1,2})v(\d{1,2})", bits) if isinstance(bits, str) else None
    keys, values = map(int, match.groups()) if match else (bits, bits)
    if type(bits) not in (int, str) or keys not in BITS or values not in BITS:
        numbers = ", ".join(map(str, BITS))
        raise UsageError(
            f"unknown kv_bits {bits!r}. Allowed: {numbers}, or two of them as k4v2 (keys in 4, values in 2)."
        )
    return keys, values


def joined_bits(bits: Any) -> Any:
    """Bits as a policy holds them: a number if keys and values have the same, also if it came as text."""
    if isinstance(bits, str) and bits.isascii() and bits.isdigit():
        bits = int(bits)
    keys, values = split_bits(bits)
    return keys if keys == values else f"k{keys}v{values}"


def check_bits(name: str, value: Any) -> None:
    """UsageError for bits that do not exist."""
    split_bits(value)
