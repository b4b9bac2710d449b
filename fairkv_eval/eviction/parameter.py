"""A parameter of a press: a number, a switch, a text, or the path of a file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError, unknown

Value = float | str  # whole numbers and true or false are numbers


@dataclass(frozen=True)
class Parameter:
    """A parameter of a press: its default, what it takes, and its use.

    It takes true or false if the default is one of them, whole numbers if the default is whole, texts if the default is
    a text. min, max: bounds of a number, inclusive; odd: if it needs a center. choices: the allowed texts, if not any.
    path: the text names a file, whose content is part of the policy's identity; "" names none. A list is a text too,
    its entries joined by ``+``.
    """

    default: Value
    min: float = -math.inf
    max: float = math.inf
    odd: bool = False
    help: str = ""
    choices: tuple[str, ...] = ()
    path: bool = False

    def check(self, press: str, name: str, value: object) -> Value:
        """Return the value. UsageError names press, parameter, value and what is allowed if it is not allowed."""
        checked: Any = _text(value) if isinstance(self.default, str) else value
        if self.choices and isinstance(checked, str) and checked not in self.choices:
            raise unknown(f"{name} of press {press!r}", checked, self.choices)
        if self.path and isinstance(checked, str) and checked and not Path(checked).is_file():
            raise UsageError(f"press {press!r}: {name}={checked!r} is not a file")
        if self._is_allowed(checked):
            return checked  # type: ignore[no-any-return]  # as the check found it
        raise UsageError(
            f"press {press!r}: {name}={value!r} is not allowed; it takes {self._allowed()} (default {self.default!r})"
        )

    def _is_allowed(self, value: Any) -> bool:
        if isinstance(self.default, str):
            return isinstance(value, str)
        kinds = bool if isinstance(self.default, bool) else int if isinstance(self.default, int) else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(self.default, bool):
            return False
        return math.isfinite(value) and self.min <= value <= self.max and not (self.odd and value % 2 == 0)

    def _allowed(self) -> str:
        if isinstance(self.default, str):
            return "the path of a file" if self.path else "a printable text"
        if isinstance(self.default, bool):
            return "true or false"
        kind = "an odd whole" if self.odd else "a whole" if isinstance(self.default, int) else "a"
        lowest = f" from {self.min:g}" if self.min > -math.inf else ""
        highest = f" to {self.max:g}" if self.max < math.inf else ""
        return f"{kind} number{lowest}{highest}"


def _text(value: object) -> str | None:
    """A value as the text that it was typed as: the harness reads 0.5 as a number; None if it is not one line."""
    if isinstance(value, (list, tuple)) and value:
        texts = [_text(entry) for entry in value]
        return None if None in texts else "+".join(map(str, texts))
    if isinstance(value, str):
        return value if value.isprintable() else None
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


# The parameter of each press that needs statistics of the model: their file, unless they are measured.
STATISTICS = "statistics"
STATISTICS_FILE = Parameter("", path=True, help="safetensors file of the model's statistics; measured if it is empty")
