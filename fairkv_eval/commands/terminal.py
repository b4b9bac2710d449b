"""What the ``fairkv`` command prints for people: as wide as a terminal, plain and uncut in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_UNBOUNDED = 10_000  # wider than any line, so that nothing is wrapped or cut in a pipe


def console() -> Console:
    """A console that writes as wide as the terminal is; without colours, and without an edge, where there is none."""
    from rich.console import Console

    plain: dict[str, Any] = {"markup": False, "highlight": False, "emoji": False}
    if sys.stdout.isatty():
        return Console(**plain)
    return Console(**plain, width=_UNBOUNDED, force_terminal=False, color_system=None)


def show(to: Console, parts: Iterable[RenderableType]) -> None:
    with to.capture() as capture:
        for part in parts:
            to.print(part)
    sys.stdout.write("\n".join(line.rstrip() for line in capture.get().rstrip().splitlines()) + "\n")
