"""What `budget_bytes` may say, checked without torch: a fraction of the full cache's bytes, or an amount."""

from __future__ import annotations

import re
from typing import Any

from fairkv_eval.errors import UsageError

UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_AMOUNT = re.compile(rf"([0-9]+\.?[0-9]*|\.[0-9]+) ?({'|'.join(UNITS)})", re.ASCII)


def read_byte_budget(value: Any) -> Any:
    """A budget as a policy holds it: a number, or ``16MiB`` without a space or needless zeros."""
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    return f"{float(match[1]):.10g}{match[2]}" if match else value


def check_byte_budget(name: str, value: Any) -> None:
    """UsageError for anything but a fraction between 0 and 1, or a positive amount with a unit."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if value is not None and not (number and 0 < value < 1) and not (match and float(match[1]) > 0):
        raise UsageError(
            f"{name}={value!r} is not allowed; it takes a fraction of the full cache's bytes between 0 and 1, as 0.25, "
            "or an amount for each context, as 16MiB (KiB, MiB or GiB)"
        )


def bytes_allowed(budget: float | str, full: int) -> int:
    """Whole bytes that a budget allows, if the full cache takes ``full``."""
    if isinstance(budget, str):
        match = _AMOUNT.fullmatch(budget)
        assert match is not None
        return int(float(match[1]) * UNITS[match[2]])
    return int(budget * full + 1e-6)  # of 100 bytes, 0.29 is 29
