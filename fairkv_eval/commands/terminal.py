"""Output of the ``fairkv`` command for people: as wide as the terminal; in a pipe plain and uncut."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fairkv_eval.escaping import for_terminal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
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
    """Print parts one below the other, without blanks at the ends of lines.

    Names and answers of others may be in any part, so no control character of a text reaches the terminal.
    """
    with screen.capture() as capture:
        for part in parts:
            screen.print(_Harmless(part))
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().rstrip().splitlines()) + "\n")


class _Harmless:
    """A part whose text has no control characters; its styles, which are made into some later, stay."""

    def __init__(self, part: RenderableType) -> None:
        self.part = part

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for segment in screen.render(self.part, options):
            yield segment._replace(text=for_terminal(segment.text))


def plain_table(**options: Any) -> Table:
    """A table without lines: bold headers, two blanks between columns. ``options`` are rich's own."""
    from fairkv_eval.commands.fitting_table import FittingTable

    return FittingTable(**{"box": None, "pad_edge": False, "padding": (0, 2, 0, 0), "header_style": "bold", **options})
