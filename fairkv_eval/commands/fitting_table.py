"""A table that cuts nothing: on a terminal that is too narrow for it, each row is a few lines."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

_FOLDED = 12  # the least width of a column that may break its words
_INDENT = 4


class FittingTable(Table):
    """A table of rich. A row that does not fit is its first cell, and below it the others with their headers."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from self._as_lines()

    def _least(self, console: Console, options: ConsoleOptions) -> int:
        """The least width in which no cell is cut."""
        wide = options.update(width=options.size.width + 10_000)
        widths = [_least_width(column, self.show_header, console, wide) for column in self.columns]
        _, right, _, left = self.padding
        return sum(widths) + (left + right) * (len(widths) - 1)

    def _as_lines(self) -> Iterator[RenderableType]:
        headers = [str(column.header) if self.show_header else "" for column in self.columns]
        for first, *others in zip(*(column.cells for column in self.columns), strict=True):
            yield first
            named = [(header, cell) for header, cell in zip(headers[1:], others, strict=True) if cell != ""]
            words = [f"{header} {cell}".strip() for header, cell in named if isinstance(cell, (str, Text))]
            parts = [*(["; ".join(words)] if words else []), *(c for _, c in named if not isinstance(c, (str, Text)))]
            yield from (Padding(part, (0, 0, 0, _INDENT)) for part in parts)


def _least_width(column: Column, header: bool, console: Console, options: ConsoleOptions) -> int:
    cells = [*([column.header] if header else []), *column.cells]
    sizes = [Measurement.get(console, options, cell) for cell in cells]
    least = max((size.maximum if column.no_wrap else size.minimum for size in sizes), default=0)
    return min(least, _FOLDED) if column.overflow == "fold" and not column.no_wrap else least
