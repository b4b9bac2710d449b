"""How figures look: colours of lines, which differ in lightness, dashes and markers as well, on light and on dark."""

from __future__ import annotations

from typing import Any, NamedTuple

Dashes = str | tuple[float, tuple[float, ...]]


class Line(NamedTuple):
    """A line's look. ``light`` and ``dark``: its colour on each ground; ``filled``: its markers."""

    light: str
    dark: str
    dashes: Dashes
    marker: str
    filled: bool


class Theme(NamedTuple):
    """The colours of a ground and what stands on it."""

    name: str
    ground: str
    text: str
    quiet: str
    grid: str


LIGHT = Theme("light", "#ffffff", "#1a1a1a", "#5c5c5c", "#e4e4e4")
DARK = Theme("dark", "#16181c", "#ececec", "#a8adb5", "#33373e")

# Plain and fair first. After Okabe and Ito, with lightness spread out, so that neighbours differ in grey too.
LINES = (
    Line("#d97a00", "#ffbf66", (0, (4, 1.6)), "s", False),
    Line("#0b4f9e", "#5aa7ee", "-", "o", True),
    Line("#00684f", "#1f9474", "-", "^", True),
    Line("#c86aa0", "#f0a3cf", (0, (4, 1.6)), "D", False),
    Line("#222222", "#f2f2f2", (0, (1, 1.2)), "v", True),
    Line("#4aa3d8", "#9bd4f5", (0, (5, 1.4, 1, 1.4)), "P", False),
    Line("#7d1d4b", "#d0729f", (0, (5, 1.4, 1, 1.4, 1, 1.4)), "X", True),
    Line("#8a8a1f", "#d6d66b", (0, (2, 2)), "<", False),
    Line("#b3404f", "#f28b97", "-", ">", True),
    Line("#4a4ab8", "#a9a9ff", (0, (3, 1.2, 1, 1.2)), "p", False),
    Line("#7a5c3e", "#cfae8a", (0, (6, 2)), "h", True),
    Line("#5f8f45", "#a8d58f", (0, (1, 2)), "*", False),
)


def rc(theme: Theme) -> dict[Any, Any]:
    """matplotlib's settings. SVG keeps text as text, under names that are the same every time."""
    colours = ("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor")
    return {
        **dict.fromkeys(colours, theme.text),
        **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), theme.ground),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), theme.quiet),
        "font.size": 8.5,
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": theme.grid,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.2,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "svg.fonttype": "none",
        "svg.hashsalt": "fairkv",
    }
