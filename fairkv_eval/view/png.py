"""A view as a picture: the prompt with its survivors, a map of layers by positions, and each layer's attention."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.errors import UsageError
from fairkv_eval.view.segment_text import colours, pieces
from fairkv_eval.view.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 150  # characters per line of the prompt
_LINES = 60  # at most, of the prompt
_WIDTH = 13.0  # inches
_LINE = 0.19  # inches
_BLANK = "#999999"
_LEGEND_LETTER, _LEGEND_GAP = 0.0062, 4  # the width of a letter, and the letters between entries
_HEADING = 110  # letters of the question in one line
_PALEST = 0.45  # of letters, so that what is evicted can still be read
_ATTENTION = {
    "entropy": "evenness\n(entropy / ln n)",
    "top": "on the top\ntenth of tokens",
    "held": "on the\nkept tokens",
}


def draw(view: View, path: Path) -> None:
    """Write the picture. Raise UsageError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("a PNG needs matplotlib: pip install 'fairkv-eval[plots]'") from error
    from matplotlib.figure import Figure

    lines = list(_wrapped(view))
    shown = lines[:_LINES]
    heading = _heading(view)
    text, layers = _LINE * (len(shown) + (len(lines) > _LINES)), max(2.4, 0.15 * len(view.layers))
    above = 0.24 * (len(heading) + len(_legend(view)))
    height = text + layers + 2.39 + above
    with matplotlib.rc_context({"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(_WIDTH, height), layout=None)
        x, width, side = 0.055, 0.6, 0.085

        def axes(left: float, bottom: float, wide: float, inches: float) -> Axes:
            return figure.add_axes((left, bottom / height, wide, inches / height))

        _words(figure, view, heading, x, height)
        _prompt(axes(x, layers + 1.56, 0.93, text), view, shown, len(lines) - len(shown))
        heat = axes(x, 0.95, width, layers)
        picture = _heat(heat, view)
        _strip(axes(x, 0.95 + layers + 0.04, width, 0.11), view)
        _mean(axes(x, 0.4, width, 0.42), view)
        beside = x + width + 0.03
        for i, (name, title) in enumerate(_ATTENTION.items()):
            _bars(axes(beside + i * (side + 0.025), 0.95, side, layers), view, name, title)
        figure.text(beside, (0.95 + layers + 0.42) / height, "attention, by layer", weight="bold", va="bottom")
        bar = figure.colorbar(picture, cax=axes(beside, 0.52, 3 * side + 0.05, 0.12), orientation="horizontal")
        bar.set_label("share of a layer's heads that keep a position", labelpad=2)
        bar.set_ticks([0, 0.5, 1], labels=["none", "half", "all"])
        figure.savefig(path, dpi=130, format="png", facecolor="white")


def _heading(view: View) -> list[str]:
    return textwrap.wrap(f"Which tokens survive {view.title}?", _HEADING)


def _words(figure: Any, view: View, heading: list[str], x: float, height: float) -> None:
    """The question, what is shown, and the legend."""
    y = height - 0.28
    for words in heading:
        figure.text(x, y / height, words, size=13, weight="bold", va="center", parse_math=False)
        y -= 0.24
    facts = f"{view.task}, doc {view.doc_id}: {view.context_length} tokens of context, {view.keep_rate:.1%} of their KV"
    figure.text(x, y / height, f"{facts} pairs kept", va="center", parse_math=False)
    y -= 0.26
    for entries in _legend(view):
        at = x
        for label, colour in entries:
            figure.text(at, y / height, label, color=colour, va="center", weight="bold", parse_math=False)
            at += _LEGEND_LETTER * (len(label) + _LEGEND_GAP)
        y -= 0.24
    note = "Shaded words are kept, pale ones evicted; a line below each word has its segment's colour."
    figure.text(x, y / height, note, color="#555555", va="center")


def _legend(view: View) -> list[list[tuple[str, str]]]:
    """Lines of (label, colour): each segment with its keep rate, and what is between segments."""
    entries = [
        (f"■ {name}: {view.keep_rates.get(name, 1.0):.1%} kept", colour) for name, colour in _colours(view).items()
    ]
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0.0
    for label, colour in [*entries, ("■ template, between segments", "#777777")]:
        width = _LEGEND_LETTER * (len(label) + _LEGEND_GAP)
        if lines[-1] and used + width > 0.93:
            lines, used = [*lines, []], 0.0
        lines[-1].append((label, colour))
        used += width
    return lines


def _colours(view: View) -> dict[str, str]:
    return colours(segment.name for segment in view.segments)


def _wrapped(view: View) -> Iterator[list[tuple[int, str]]]:
    """Lines of the context as (token, its characters on this line). Unprintable characters become blanks."""
    line: list[tuple[int, str]] = []
    used = 0
    for i, token in enumerate(view.tokens[: view.context_length]):
        for k, part in enumerate(token.split("\n")):
            if k:
                line.append((i, "↵"))
                yield line
                line, used = [], 0
            words = "".join(c if c.isprintable() else " " for c in part)
            while words:
                if used + len(words) > _COLUMNS and used:
                    yield line
                    line, used = [], 0
                line.append((i, words[:_COLUMNS]))
                used += len(words[:_COLUMNS])
                words = words[_COLUMNS:]
    if line:
        yield line


def _prompt(axes: Axes, view: View, lines: list[list[tuple[int, str]]], more: int) -> None:
    from matplotlib.patches import Rectangle

    owner, share = _owners(view), view.mean_share
    font: dict[str, Any] = {"family": "monospace", "size": 8.2, "ha": "center", "va": "center", "parse_math": False}

    def block(at: int, top: float, width: int, height: float, token: int, alpha: float) -> None:
        axes.add_patch(Rectangle((at, top), width, height, lw=0, fc=owner[token], alpha=alpha))

    rows = len(lines) + bool(more)
    axes.set(xlim=(0, _COLUMNS + 2), ylim=(rows, 0))
    axes.axis("off")
    for row, line in enumerate(lines):
        at = 0
        for token, words in line:
            alpha = _PALEST + (1 - _PALEST) * share[token]
            block(at, row + 0.06, len(words), 0.82, token, 0.4 * share[token])
            block(at, row + 0.88, len(words), 0.07, token, 1.0)
            for k, letter in enumerate(words):
                if not letter.isspace():
                    axes.text(at + k + 0.5, row + 0.5, letter, alpha=alpha, **font)
            at += len(words)
    if more:
        axes.text(0, rows - 0.5, f"… {more} more lines", va="center", style="italic")


def _owners(view: View) -> list[str]:
    """The colour of each position."""
    colour_of = _colours(view)
    owner = [_BLANK] * view.context_length
    for name, start, stop in pieces(view.segments, view.context_length):
        if name:
            owner[start:stop] = [colour_of[name]] * (stop - start)
    return owner


def _heat(axes: Axes, view: View) -> Any:
    shares = [layer.share for layer in view.layers]
    smooth = "nearest" if view.context_length < 800 else "auto"
    picture = axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation=smooth)
    axes.set_ylabel("layer")
    axes.tick_params(labelbottom=False, length=2)
    _edges(axes, view)
    return picture


def _edges(axes: Axes, view: View) -> None:
    for _, start, _ in list(pieces(view.segments, view.context_length))[1:]:
        axes.axvline(start - 0.5, color="#444444", lw=0.6, ls=":")


def _strip(axes: Axes, view: View) -> None:
    from matplotlib.colors import to_rgb

    blank = (1.0, 1.0, 1.0)
    axes.imshow([[blank if c == _BLANK else to_rgb(c) for c in _owners(view)]], aspect="auto", interpolation="nearest")
    axes.axis("off")


def _mean(axes: Axes, view: View) -> None:
    axes.bar(range(view.context_length), view.mean_share, width=1.0, color=_owners(view))
    axes.set(xlim=(-0.5, view.context_length - 0.5), ylim=(0, 1), yticks=[0, 1], xlabel="position", ylabel="mean")
    axes.tick_params(length=2)
    _edges(axes, view)


def _bars(axes: Axes, view: View, name: str, title: str) -> None:
    values = [getattr(layer.concentration, name) if layer.concentration else 0.0 for layer in view.layers]
    axes.barh(range(len(values)), values, height=0.8, color="#555555")
    axes.set(ylim=(len(values) - 0.5, -0.5), xlim=(0, 1), xticks=[0, 0.5, 1], title=title)
    axes.tick_params(labelleft=False, length=2)
    axes.grid(axis="x", lw=0.4)
    axes.set_axisbelow(True)
