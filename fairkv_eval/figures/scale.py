"""The scale that the panels of rows share."""

from __future__ import annotations

from collections.abc import Sequence

from fairkv_eval.figures.figure import Row

_BEYOND = 3.0  # of the values' range: how far bands may widen the scale; longer ones leave the panel
_MARGIN = 0.06
_ABOVE = 1.5  # the margin of a logarithmic scale
_FLAT = 0.02  # the least range, so that values that are all the same do not fill a panel


def limits(rows: Sequence[Row]) -> tuple[float, float]:
    """The lowest and the highest place: every value and level, and of the bands what does not squeeze the values."""
    panels = [panel for row in rows for panel in row.panels]
    series = [one for panel in panels for one in panel.series]
    values = [y for one in series for y in one.y] + [panel.level for panel in panels if panel.level is not None]
    low, high = min(values), max(values)
    room = _BEYOND * max(high - low, _FLAT)
    lows = [end for one in series for end in one.low if end is not None]
    highs = [end for one in series for end in one.high if end is not None]
    bottom = max(min([low, *lows]), low - room)
    top = min(max([high, *highs]), high + room)
    if rows[0].linear_to is not None:
        return min(bottom, -_MARGIN * rows[0].linear_to), top * _ABOVE
    margin = _MARGIN * max(top - bottom, _FLAT)
    return bottom - margin, max(top, bottom + _FLAT) + margin
