"""Output of the ``fairkv`` command for people: as wide as the terminal; in a pipe plain and uncut."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_UNBOUNDED = 10_000  # wider than any line, so that a pipe gets every line whole


def console() -> Console:
    """A console as wide as the terminal; without a terminal it has no colours and no right edge."""
    from rich.console import Console

    plain: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}
    if sys.stdout.isatty():
        return Console(**plain)
    return Console(**plain, width=_UNBOUNDED, force_terminal=False, color_system=None)


def show(screen: Console, parts: Iterable[RenderableType]) -> None:
    """Print parts one below the other, without blanks at the ends of lines."""
    with screen.capture() as capture:
        for part in parts:
            screen.print(part)
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().rstrip().splitlines()) + "\n")


def plain_table(**options: Any) -> Table:
    """A table without lines: bold headers, two blanks between columns. ``options`` are rich's own."""
    from rich.table import Table

    return Table(**{"box": None, "pad_edge": False, "padding": (0, 2, 0, 0), "header_style": "bold", **options})
