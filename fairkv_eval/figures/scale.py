"""The scale that the panels of rows share."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from fairkv_eval.figures.figure import Row

_BEYOND = 3.0  # of the values' range or the median band: how far bands widen the scale; longer ones leave the panel
_MARGIN = 0.06
_ABOVE = 1.5  # the margin of a logarithmic scale
_FLAT = 0.02  # the least range, so that values that are all the same do not fill a panel


def limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The lowest and the highest place: every value and level, and of the bands what does not squeeze the values."""
    panels = [panel for row in rows for panel in row.panels]
    series = [one for panel in panels for one in panel.series]
    points = [point for one in series for point in zip(one.y, one.low, one.high, strict=True)]
    values = [y for y, _, _ in points] + [panel.level for panel in panels if panel.level is not None]
    lows = [end for _, end, _ in points if end is not None]
    highs = [end for _, _, end in points if end is not None]
    bands = [abs(end - y) for y, *ends in points for end in ends if end is not None]
    low, high = min(values), max(values)
    room = _BEYOND * max(high - low, _FLAT, median(bands or [0.0]))
    bottom = max(min([low, *lows]), low - room)
    top = min(max([high, *highs]), high + room)
    if rows[0].linear_to is not None:
        return min(bottom, -_MARGIN * rows[0].linear_to), top * _ABOVE
    margin = _MARGIN * max(top - bottom, _FLAT)
    return bottom - margin, max(top, bottom + _FLAT) + margin
