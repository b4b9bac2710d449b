"""A figure: panels under one title, with the lines in them."""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float | None, float | None]  # value and the ends of its interval


@dataclass(frozen=True)
class Series:
    """A line with markers. ``style``: its colour and marker; ``variant``: 0 is solid, others are broken lines."""

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    style: int
    variant: int = 0


@dataclass(frozen=True)
class Panel:
    """One pair of axes. ``level``: a horizontal line to read against; ``behind``: points (x, y) drawn in grey;
    ``linear_to``: above this value the y axis is logarithmic."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    level: float | None = None
    behind: tuple[tuple[float, float], ...] = ()
    linear_to: float | None = None


@dataclass(frozen=True)
class Figure:
    """Panels under one title; ``name`` is the file's, without its ending."""

    name: str
    title: str
    panels: tuple[Panel, ...]
