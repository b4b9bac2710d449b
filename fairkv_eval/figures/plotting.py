"""Figures as pictures: one question each, readable in grey, by the colour-blind, on light and on dark."""

from __future__ import annotations

import re
import textwrap
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.errors import UsageError
from fairkv_eval.escaping import for_terminal
from fairkv_eval.figures.figure import Figure, Horizontal, Row, Series
from fairkv_eval.figures.layout import LINE, TITLE, WORDS, Layout, layout, name_lines
from fairkv_eval.figures.scale import limits
from fairkv_eval.figures.style import LIGHT, LINES, Theme, rc
from fairkv_eval.files import folder as made_folder
from fairkv_eval.files import write, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 110  # a figure of six columns is as wide as a screen
_COLOURS = 160  # in a PNG; more cannot be told apart, and make it three times as large
_FULL = "full cache"
_GAP = "no value"
BANDS = "bands: 95 % intervals"
GAPS = "×: no value there, since it is not defined (all classes equal, or too few documents)"


def save(figure: Figure, folder: Path, svg: bool = False) -> list[Path]:
    """Draw a figure into ``folder`` as PNG, and as SVG if asked to, and return the paths.

    Raise UsageError without matplotlib, or if the folder cannot be written.
    """
    picture = png(figure)
    paths = [write(made_folder(folder) / f"{figure.name}.png", picture)]
    if svg:
        canvas = drawing(figure, LIGHT)
        make = partial(canvas.savefig, format="svg", metadata={"Date": None})
        with _settings(LIGHT):
            paths.append(write_whole(folder / f"{figure.name}.svg", make))
    return paths


def png(figure: Figure, theme: Theme = LIGHT) -> bytes:
    """A figure as PNG, of few colours, so that it is small."""
    canvas = drawing(figure, theme)
    import numpy as np
    from PIL import Image

    with _settings(theme):
        canvas.canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.canvas.buffer_rgba())).convert("RGB")
    content = BytesIO()
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()


def drawing(figure: Figure, theme: Theme) -> Any:
    """A figure as matplotlib's. Raise UsageError without matplotlib."""
    with _settings(theme):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas

        notes = " · ".join(
            [figure.source] * bool(figure.source) + [BANDS] * figure.has_bands + [GAPS] * figure.has_gaps
        )
        places = layout(figure, notes, [handle.get_label() for handle in _handles(figure, theme)])
        canvas = Canvas(figsize=(places.width, places.height), dpi=_DPI)
        FigureCanvasAgg(canvas)
        _words(canvas, figure, places, theme)
        for block in range(len(places.blocks)):
            canvas.text(*places.axis_at(block), figure.x.label, va="top", size=8)
            for row in range(len(places.blocks[block].rows)):
                _row(canvas, figure, places, block, row, theme)
        _make_harmless(canvas)
        return canvas


def _make_harmless(canvas: Any) -> None:
    """No control character of a name in any text: fonts lack them, and an SVG may not hold them."""
    from matplotlib.text import Text

    for text in canvas.findobj(Text):
        if (harmless := for_terminal(text.get_text())) != text.get_text():
            text.set_text(harmless)


def _settings(theme: Theme) -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("figures need matplotlib: pip install 'fairkv-eval[plots]'") from error
    return matplotlib.rc_context(rc(theme))


def _words(canvas: Any, figure: Figure, places: Layout, theme: Theme) -> None:
    """Title, sentence and legend above the panels, the source below them."""
    left, y = 0.15 / places.width, places.height - 0.14
    plain: dict[str, Any] = {"va": "top", "ha": "left", "parse_math": False}
    for text in places.title:
        canvas.text(left, y / places.height, text, size=13, weight="bold", **plain)
        y -= TITLE
    for text in places.sentence:
        canvas.text(left, y / places.height, text, size=9, color=theme.quiet, **plain)
        y -= WORDS
    handles = _handles(figure, theme)
    anchor = (left, (y - 0.03) / places.height)
    canvas.legend(
        handles=handles, loc="upper left", bbox_to_anchor=anchor, ncols=places.legend, frameon=False, fontsize=9,
        borderpad=0, borderaxespad=0, columnspacing=1.6, handlelength=2.6,
    )  # fmt: skip
    y = places.bottom - 0.04
    for text in places.source:
        canvas.text(left, y / places.height, text, size=7.5, color=theme.quiet, **plain)
        y -= LINE


def _handles(figure: Figure, theme: Theme) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=label, **_look(style, theme)) for label, style in figure.legend.items()]
    if any(panel.level is not None for panel in figure.panels):
        handles.append(Line2D([], [], label=_FULL, color=theme.quiet, linestyle=":", linewidth=1.2))
    if figure.has_gaps:
        handles.append(Line2D([], [], label=_GAP, color=theme.quiet, linestyle="", marker="x"))
    return handles


def _look(style: int, theme: Theme) -> dict[str, Any]:
    look = LINES[style]
    colour = getattr(look, theme.name)
    face = colour if look.filled else theme.ground
    return {"color": colour, "linestyle": look.dashes, "marker": look.marker, "markerfacecolor": face}


def _row(canvas: Any, figure: Figure, places: Layout, block: int, at: int, theme: Theme) -> None:
    """The ``at``-th row of a block. Where a press has no data there is no panel, and the next one has the labels."""
    columns, rows = places.blocks[block].columns, [figure.rows[index] for index in places.blocks[block].rows]
    row = rows[at]
    panels = {panel.column: panel for panel in row.panels}
    first = next(name for name in columns if name in panels)
    for column, name in enumerate(columns):
        if name not in panels:
            continue
        axis = canvas.add_axes(places.panel_at(block, at, column))
        _scales(axis, figure, row)
        for one in panels[name].series:
            _line(axis, one, _look(figure.legend[one.label], theme))
        if panels[name].level is not None:
            axis.axhline(panels[name].level, color=theme.quiet, linestyle=":", linewidth=1.2, zorder=1)
        top = not any(name in {panel.column for panel in other.panels} for other in rows[:at])
        last = not any(name in {panel.column for panel in other.panels} for other in rows[at + 1 :])
        axis.tick_params(labelleft=name == first, labelbottom=last)
        for label, side in zip(axis.get_xticklabels(), ("left", "center", "right"), strict=False):
            label.set_horizontalalignment(side if figure.x.share else "center")
        if top:
            _name(axis, name, figure.x, theme, name == first)
        if name == first:
            axis.set_ylabel(_row_label(row, places.panel[1]), fontsize=8, parse_math=False)


def _row_label(row: Row, tall: float) -> str:
    """What a row shows and which way is better, in lines no longer than a panel is high."""
    better = {True: "↑ better", False: "↓ better", None: ""}[row.better]
    *task, what = row.label.split(": ", 1)
    lines = [line for part in (*(f"{name}:" for name in task), what) for line in _wrapped(part, int(tall / 0.058))]
    return "\n".join([*lines, *[better] * bool(better)])


def _wrapped(words: str, letters: int) -> list[str]:
    """Lines of so many letters, broken at spaces, else behind an underscore or a comma, else anywhere."""
    lines = []
    for line in textwrap.wrap(words, letters, break_long_words=False, break_on_hyphens=False):
        lines.append("")
        for part in re.findall(rf"[^_,]{{0,{letters - 1}}}[_,]?", line):
            if len(lines[-1] + part) > letters:
                lines.append("")
            lines[-1] += part
    return lines


def _name(axis: Axes, name: str, x: Horizontal, theme: Theme, first: bool) -> None:
    """The press above its column, and the ratio along the top."""
    words = "\n".join(name_lines(name))
    axis.set_title(words, loc="left", fontsize=9, fontweight="bold", pad=4, parse_math=False)
    if x.ratio:
        ratio = axis.secondary_xaxis("top", functions=(_complement, _complement))
        ratio.set_ticks([0.0, 0.5, 1.0], ["ratio 0" if first else "0", "0.5", "1"])
        ratio.tick_params(labelsize=7, labelcolor=theme.quiet, length=2, pad=1)
        ratio.spines["top"].set_visible(False)


def _complement(share: Any) -> Any:
    return 1 - share


def _scales(axis: Axes, figure: Figure, row: Row) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    xs = [x for panel in figure.panels for one in panel.series for x in (*one.x, *one.gaps)]
    if figure.x.share:
        axis.set_xlim(max(1.0, *xs) + 0.04, -0.04)
        axis.set_xticks([1.0, 0.5, 0.0])
        axis.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    else:
        axis.set_xlim(max(xs) * 1.04, -0.04 * max(xs))
        axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    if row.linear_to is not None:
        axis.set_yscale("symlog", linthresh=row.linear_to)
        axis.yaxis.set_major_formatter("{x:g}")
    else:
        axis.yaxis.set_major_locator(MaxNLocator(4))
    axis.set_ylim(*limits([other for other in figure.rows if other is row or (row.scale and other.scale == row.scale)]))


def _line(axis: Axes, one: Series, look: dict[str, Any]) -> None:
    """The line, broken where it has no value, its markers, and its interval as a band."""
    nothing = float("nan")
    points = sorted([*zip(one.x, one.y, one.low, one.high, strict=True), *((x, nothing, None, None) for x in one.gaps)])
    xs, ys, lows, highs = zip(*points, strict=True)
    axis.plot(xs, ys, zorder=3, **look)
    low, high = ([nothing if value is None else value for value in ends] for ends in (lows, highs))
    axis.fill_between(xs, low, high, color=look["color"], alpha=0.2, linewidth=0, zorder=2)
    if one.gaps:
        bottom = [0.0] * len(one.gaps)
        axis.plot(
            one.gaps, bottom, "x", color=look["color"], transform=axis.get_xaxis_transform(), clip_on=False, zorder=4
        )
