"""A figure: a question, and panels that answer it, in rows of one quantity each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from fairkv_eval.figures.style import LINES

Point = tuple[float, float | None, float | None]  # value and the ends of its interval


@dataclass(frozen=True)
class Series:
    """A line with markers. ``style``: its colour, dashes and marker; ``gaps``: the x of points that have no value."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    style: int
    gaps: tuple[float, ...] = ()


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``column``: the press it is about; ``level``: a value to read against, the full cache's."""

    column: str
    series: tuple[Series, ...]
    level: float | None = None


@dataclass(frozen=True)
class Row:
    """Panels of one quantity, which share their scale, one a press that has data.

    ``better``: whether higher values are better, None for neither; ``linear_to``: above this value the scale is
    logarithmic; ``scale``: rows of one name share their scale as well.
    """

    label: str
    panels: tuple[Panel, ...]
    better: bool | None = None
    linear_to: float | None = None
    scale: str | None = None


@dataclass(frozen=True)
class Horizontal:
    """What panels run over, from much to little. ``share``: of the full cache, as a percentage; ``ratio``: whether the
    ratio is 1 − that share everywhere, so that it can stand beside it."""

    label: str
    share: bool
    ratio: bool = False


@dataclass(frozen=True)
class Figure:
    """Rows of panels under a question; ``name`` is the file's, without its ending.

    ``sentence``: how to read it; ``source``: the model, documents, answers and dates.
    """

    name: str
    question: str
    sentence: str
    x: Horizontal
    rows: tuple[Row, ...]
    source: str = ""

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(sorted({panel.column for panel in self.panels}))

    @cached_property
    def legend(self) -> dict[str, int]:
        """The style of each label. Of two that look alike, the later one takes a look that the figure does not use, if
        there is one. Nothing but plain and fair, the first two, looks like them."""
        styles = {one.label: one.style for panel in self.panels for one in panel.series}
        looks: dict[str, int] = {}
        others = range(2, len(LINES))
        for label, style in sorted(styles.items(), key=lambda item: item[1]):
            wanted = style if style < len(LINES) else others[style % len(others)]
            looks[label] = next((look for look in (wanted, *others) if look not in looks.values()), wanted)
        return looks

    @property
    def has_gaps(self) -> bool:
        return any(one.gaps for panel in self.panels for one in panel.series)

    @property
    def has_bands(self) -> bool:
        return any(low is not None for panel in self.panels for one in panel.series for low in one.low)
