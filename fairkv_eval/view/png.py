"""A view as a picture: the prompt with its survivors, a map of layers by positions, and each layer's attention."""

from __future__ import annotations

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


def draw(view: View, path: Path) -> None:
    """Write the picture. Raise UsageError if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError as error:
        raise UsageError("a PNG needs matplotlib: pip install 'fairkv-eval[plots]'") from error
    from matplotlib.figure import Figure

    lines = list(_wrapped(view))
    shown = lines[:_LINES]
    text, layers = _LINE * (len(shown) + (len(lines) > _LINES)), max(2.4, 0.15 * len(view.layers))
    height = text + layers + 2.4
    with matplotlib.rc_context({"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "none"}):
        figure = Figure(figsize=(_WIDTH, height), layout=None)
        x, width, side = 0.055, 0.6, 0.085

        def axes(left: float, bottom: float, wide: float, inches: float) -> Axes:
            return figure.add_axes((left, bottom / height, wide, inches / height))

        figure.text(x, 1 - 0.28 / height, f"{view.task}, doc {view.doc_id}", size=13, weight="bold", va="center")
        subtitle = (
            f"{view.title}:  {view.context_length} tokens of context, {view.keep_rate:.1%} of their KV pairs kept"
        )
        figure.text(x, 1 - 0.52 / height, subtitle, va="center", parse_math=False)
        _legend(figure, view, x, 1 - 0.78 / height)
        bottom = layers + 1.32
        _prompt(axes(x, bottom, 0.93, text), view, shown, len(lines) - len(shown))
        heat = axes(x, 0.95, width, layers)
        _heat(heat, view)
        _strip(axes(x, 0.95 + layers + 0.04, width, 0.11), view)
        _mean(axes(x, 0.4, width, 0.42), view)
        for i, (name, title) in enumerate((("entropy", "entropy / ln n"), ("top", "top tenth"), ("held", "held"))):
            _bars(axes(x + width + 0.03 + i * (side + 0.025), 0.95, side, layers), view, name, title)
        figure.savefig(path, dpi=130, format="png", facecolor="white")


def _legend(figure: Any, view: View, x: float, y: float) -> None:
    for name, colour in colours(segment.name for segment in view.segments).items():
        label = f"■ {name}: {view.keep_rates.get(name, 1.0):.1%} kept"
        figure.text(x, y, label, color=colour, va="center", weight="bold", parse_math=False)
        x += 0.0062 * (len(label) + 4)


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
            alpha = 0.12 + 0.88 * share[token]
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
    colour_of = colours(segment.name for segment in view.segments)
    owner = [_BLANK] * view.context_length
    for name, start, stop in pieces(view.segments, view.context_length):
        if name:
            owner[start:stop] = [colour_of[name]] * (stop - start)
    return owner


def _heat(axes: Axes, view: View) -> None:
    shares = [layer.share for layer in view.layers]
    smooth = "nearest" if view.context_length < 800 else "auto"
    axes.imshow(shares, aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation=smooth)
    axes.set_ylabel("layer")
    axes.tick_params(labelbottom=False, length=2)
    _edges(axes, view)


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
