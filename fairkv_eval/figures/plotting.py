"""Figures as files: readable in grey and by the colour-blind, with labels at the ends of lines."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.errors import UsageError
from fairkv_eval.figures.figure import Figure, Panel, Series
from fairkv_eval.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette without its yellow, which is lost on white, and two colours of Tol's. Further lines differ in
# their marker.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9", "#882255", "#999933")
# Each marker with the sign before a line's name, filled and hollow, so that the names can be matched in grey too.
MARKERS = {
    **{"o": "●○", "s": "■□", "^": "▲△", "D": "◆◇", "v": "▼▽", "P": "✚✚", "X": "✖✖", "<": "◀◁", ">": "▶▷", "*": "★☆"},
    **{"$♠$": "♠♤", "$♣$": "♣♧", "$♥$": "♥♡"},
}
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
_COLUMNS = 3
_PANEL = (4.2, 3.1)  # inches
_TITLE = 42  # letters of the title above a panel
_LINE = 11.0  # points between the baselines of two labels
_CROWDED = 5  # lines from which bands would cover each other
_STYLE: dict[Any, Any] = {
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "fairkv",
}


def save(figure: Figure, folder: Path, dpi: int = 150) -> list[Path]:
    """Draw a figure into ``folder`` as PNG and SVG and return their paths. Raise UsageError without matplotlib."""
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("figures need matplotlib: pip install 'fairkv-eval[plots]'") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    columns = min(_COLUMNS, len(figure.panels))
    rows = math.ceil(len(figure.panels) / columns)
    paths = []
    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.4), layout="constrained")
        FigureCanvasAgg(canvas)
        canvas.suptitle(textwrap.fill(figure.title, _TITLE * columns), fontsize=11, fontweight="bold")
        axes = canvas.subplots(rows, columns, squeeze=False, sharey=_one_scale(figure))
        for axis, panel in zip(axes.flat, figure.panels, strict=False):
            _draw(axis, panel)
        for axis in axes.flat[len(figure.panels) :]:
            axis.set_axis_off()
        canvas.draw_without_rendering()  # the places of labels depend on the ends of their lines on the page
        for axis, panel in zip(axes.flat, figure.panels, strict=False):
            _label_ends(axis, panel)
        canvas.draw_without_rendering()  # make room for them, once for both files
        canvas.set_layout_engine("none")
        folder.mkdir(parents=True, exist_ok=True)
        for ending, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            draw = partial(canvas.savefig, format=ending, dpi=dpi, metadata=metadata)
            paths.append(write_whole(folder / f"{figure.name}.{ending}", draw))
    return paths


def _one_scale(figure: Figure) -> bool:
    """Panels of one quantity share their scale, so that they can be compared."""
    return len({panel.y_label for panel in figure.panels}) == 1


def _draw(axis: Axes, panel: Panel) -> None:
    axis.set_title(panel.title, loc="left")
    axis.set_xlabel(panel.x_label)
    axis.set_ylabel(panel.y_label)
    axis.tick_params(labelleft=True)
    axis.set_axisbelow(True)
    axis.margins(x=0.04)
    if panel.level is not None:
        axis.axhline(panel.level, color="#999999", linewidth=0.8)
    if panel.behind:
        axis.plot(*zip(*panel.behind, strict=True), ".", color="#c8c8c8", markersize=4, zorder=1)
    if panel.linear_to is not None:
        axis.set_yscale("symlog", linthresh=panel.linear_to)
    for index, one in enumerate(panel.series):
        aside = 1.4 * (index - (len(panel.series) - 1) / 2) if len(panel.series) >= _CROWDED else None
        _line(axis, one, aside)


def _line(axis: Axes, one: Series, aside: float | None) -> None:
    """The line, its markers (hollow for a variant) and its interval: a band, or bars this many points aside."""
    from matplotlib.transforms import ScaledTranslation

    colour = COLOURS[one.style % len(COLOURS)]
    axis.plot(
        one.x,
        one.y,
        color=colour,
        marker=list(MARKERS)[one.style % len(MARKERS)],
        linestyle=DASHES[one.variant % len(DASHES)],
        markerfacecolor="white" if one.variant else colour,
        zorder=3,
    )
    bounded = [(x, low, high) for x, low, high in zip(one.x, one.low, one.high, strict=True) if None not in (low, high)]
    if not bounded:
        return
    xs, lows, highs = zip(*bounded, strict=True)
    if aside is None:
        axis.fill_between(xs, lows, highs, color=colour, alpha=0.13, linewidth=0, zorder=2)
        return
    bars = axis.vlines(xs, lows, highs, color=colour, linewidth=0.8, alpha=0.4, zorder=2)
    moved = ScaledTranslation(aside / 72, 0, axis.figure.dpi_scale_trans)
    bars.set_transform(axis.transData + moved)


def _label_ends(axis: Axes, panel: Panel) -> None:
    """Each line's name beside its end, moved up or down until names do not touch, joined to the end by a thin line.

    Names stand right of the axes if lines run over the ratio and end there, else within the axes.
    """
    if not panel.series:
        return
    scale = axis.figure.dpi / 72
    ends = [axis.transData.transform((one.x[-1], one.y[-1])) for one in panel.series]
    right = axis.transAxes.transform((1.0, 0.0))[0]
    bottom, top = (axis.transAxes.transform((0.0, y))[1] for y in (0, 1))
    places = spread_out([y for _, y in ends], _LINE * scale, bottom, top)
    for one, (x, y), place in zip(panel.series, ends, places, strict=True):
        axis.annotate(
            f"{_sign(one)} {one.label}",
            xy=(one.x[-1], one.y[-1]),
            xytext=(8 if panel.behind else (right - x) / scale + 8, (place - y) / scale),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=COLOURS[one.style % len(COLOURS)],
            arrowprops={
                **{"arrowstyle": "-", "color": "#b0b0b0", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 3},
                "relpos": (0, 0.5),  # from the name's left, not through it
            },
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
            annotation_clip=False,
            zorder=5,
        )


def _sign(one: Series) -> str:
    return list(MARKERS.values())[one.style % len(MARKERS)][bool(one.variant)]


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to the wanted ones, in the same order, at least ``gap`` apart, and from ``low`` to ``high`` if
    they fit there."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # [sum of wanted bottoms, number]: neighbours that touch move as one
    for rank, i in enumerate(order):
        blocks.append([wanted[i] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] >= blocks[-1][0] / blocks[-1][1]:
            total, number = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + number]
    bases = [total / number for total, number in blocks for _ in range(int(number))]
    most = high - (len(order) - 1) * gap
    places = [0.0] * len(wanted)
    for rank, (i, base) in enumerate(zip(order, bases, strict=True)):
        places[i] = max(low, min(base, most)) + rank * gap
    return places
