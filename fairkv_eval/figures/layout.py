"""The places of a figure's parts, in inches: rows and columns of panels under a title and above a source."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

from fairkv_eval.figures.figure import Figure

_NAME_LETTERS = 24
COLUMNS = 6  # presses side by side; further ones stand in a block below
_LEFT, _RIGHT, _GAP = 1.12, 0.2, 0.17
_BELOW, _NUMBERS_BELOW = 0.14, 0.26  # between rows; the latter if the numbers of a shorter column's axis stand there
_WORDS_BELOW = 0.3  # below a panel, under the numbers of its axis
_NARROWEST = 7.2
_NAME, _RATIO, _AXIS = 0.17, 0.25, 0.55  # above a block: a line of the presses' names, the ratio; below: the axis
TITLE, WORDS, LINE = 0.27, 0.19, 0.165  # heights of a line of the title, of the sentence and legend, of the source
_TITLE_LETTER, _LETTER, _HANDLE = 0.117, 0.072, 0.6  # widths


@dataclass(frozen=True)
class Block:
    """Presses side by side, and the rows that have a panel for one of them, as indices of the figure's rows."""

    columns: tuple[str, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """``below``: the height between rows; ``title``, ``sentence`` and ``source``: their lines; ``blocks``: one below
    the other; ``head``: the height above a block's first row; ``legend``: entries side by side."""

    width: float
    height: float
    panel: tuple[float, float]
    below: float
    title: list[str]
    sentence: list[str]
    source: list[str]
    blocks: list[Block]
    head: float
    legend: int
    legend_lines: int

    def panel_at(self, block: int, row: int, column: int) -> tuple[float, float, float, float]:
        """The left, bottom, width and height of the panel in a block's row and column, as shares of the figure."""
        wide, tall = self.panel
        above = sum(self.height_of(other) for other in self.blocks[:block])
        top = self.height - self.top - above - self.head - row * (tall + self.below)
        left = _LEFT + column * (wide + _GAP)
        return left / self.width, (top - tall) / self.height, wide / self.width, tall / self.height

    def axis_at(self, block: int) -> tuple[float, float]:
        """Where the words of a block's horizontal axis begin, below its last row."""
        left, bottom, _, _ = self.panel_at(block, len(self.blocks[block].rows) - 1, 0)
        return left, bottom - _WORDS_BELOW / self.height

    @property
    def top(self) -> float:
        """The height of title, sentence and legend."""
        return 0.14 + TITLE * len(self.title) + WORDS * (len(self.sentence) + self.legend_lines) + 0.2

    @property
    def bottom(self) -> float:
        return 0.08 + LINE * len(self.source)

    def height_of(self, block: Block) -> float:
        return self.head + len(block.rows) * (self.panel[1] + self.below) + _AXIS


def name_lines(name: str) -> list[str]:
    """A press's name, as wide as a panel."""
    return textwrap.wrap(name.replace("(", " (").replace(",", ", "), _NAME_LETTERS) or [""]


def layout(figure: Figure, notes: str, legend: list[str]) -> Layout:
    """The layout; ``notes`` stand below the figure, the entries of the ``legend`` above the panels."""
    columns = figure.columns
    count = math.ceil(len(columns) / COLUMNS)
    across = math.ceil(len(columns) / count)
    blocks = [_block(figure, columns[i : i + across]) for i in range(0, len(columns), across)]
    wide = 1.72 if across > 3 else 2.5
    tall = 1.9 if len(figure.rows) < 3 else 1.35 if len(figure.rows) < 6 else 1.05
    width = max(_NARROWEST, _LEFT + across * (wide + _GAP) + _RIGHT)
    inside = width - 0.3
    side_by_side = max(1, min(len(legend), int(inside / (_HANDLE + max(map(len, legend)) * _LETTER))))
    parts = Layout(
        width,
        0.0,
        (wide, tall),
        _NUMBERS_BELOW if any(_has_shorter_column(figure, block) for block in blocks) else _BELOW,
        textwrap.wrap(figure.question, int(inside / _TITLE_LETTER)),
        textwrap.wrap(figure.sentence, int(inside / _LETTER)),
        textwrap.wrap(notes, int(inside / _LETTER * 1.3)),
        blocks,
        _NAME * max(len(name_lines(name)) for name in columns) + _RATIO * figure.x.ratio,
        side_by_side,
        math.ceil(len(legend) / side_by_side),
    )
    height = parts.top + sum(map(parts.height_of, blocks)) + parts.bottom
    return Layout(**{**parts.__dict__, "height": height})


def _block(figure: Figure, columns: tuple[str, ...]) -> Block:
    rows = [i for i, row in enumerate(figure.rows) if any(panel.column in columns for panel in row.panels)]
    return Block(columns, tuple(rows))


def _has_shorter_column(figure: Figure, block: Block) -> bool:
    """Whether a press of the block has no panel in its last row, so that its axis ends beside other rows."""
    last = {panel.column for panel in figure.rows[block.rows[-1]].panels}
    return not last.issuperset(block.columns)
