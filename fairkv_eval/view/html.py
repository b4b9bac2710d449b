"""A view as one HTML file that needs no other script, no font and no network. All text is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairkv_eval.view.segment_text import colours, pieces
from fairkv_eval.view.view import LayerView, View, bins

_COLUMNS = 1200  # at most in the map: more would be finer than a screen
_LEVELS = 24  # shades; each is one path, so that a map of 100 layers stays a small file
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def render(view: View) -> str:
    """The page."""
    import jinja2

    source = Path(__file__).with_name("view.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    colour_of = colours(segment.name for segment in view.segments)
    share = view.mean_share
    return environment.from_string(source).render(
        view=view,
        tail="".join(view.tokens[view.context_length :]),
        colours=colour_of,
        columns=min(view.context_length, _COLUMNS),
        stretches=[
            {
                "name": name,
                "colour": colour_of[name] if name else "#999999",
                "start": start,
                "width": stop - start,
                "tokens": [(i, view.tokens[i], share[i]) for i in range(start, stop)],
            }
            for name, start, stop in pieces(view.segments, view.context_length)
        ],
        rows=[_row(layer) for layer in view.layers],
        mean=_paths(share),
        # Digits only, so this text cannot end the script.
        shares=[_digits(row) for row in (share, *(layer.share for layer in view.layers))],
    )


def _row(layer: LayerView) -> dict[str, Any]:
    kept = sorted(set(layer.kept))
    return {
        "layer": layer,
        "paths": _paths(layer.share),
        "kept": str(kept[0]) if len(kept) == 1 else f"{kept[0]}–{kept[-1]}",
    }


def _paths(share: Sequence[float]) -> list[tuple[float, str]]:
    """(opacity, SVG path) per shade that occurs. A run of columns of one shade is one rectangle."""
    levels = [round(value * _LEVELS) if value else 0 for value in bins(share, _COLUMNS)]
    levels = [max(level, 1) if value else 0 for level, value in zip(levels, bins(share, _COLUMNS), strict=True)]
    paths: dict[int, list[str]] = {}
    start = 0
    for at in range(1, len(levels) + 1):
        if at == len(levels) or levels[at] != levels[start]:
            if levels[start]:
                paths.setdefault(levels[start], []).append(f"M{start} 0h{at - start}v1H{start}z")
            start = at
    return [(level / _LEVELS, "".join(path)) for level, path in sorted(paths.items())]


def _digits(share: Sequence[float]) -> str:
    """One digit in base 36 per position."""
    return "".join(_DIGITS[round(value * (len(_DIGITS) - 1))] for value in share)
