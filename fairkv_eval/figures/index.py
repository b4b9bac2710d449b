"""The page of a model's figures: one HTML file with every picture inside, on light and on dark."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

from fairkv_eval.figures.figure import Figure
from fairkv_eval.figures.plotting import png
from fairkv_eval.figures.style import DARK


def page(model: str, figures: Sequence[Figure], left_out: Sequence[str], folder: Path) -> str:
    """The figures in reading order, each with its question and a sentence; what is left out, with reasons.

    Those on light are in the folder already.
    """
    import jinja2

    source = Path(__file__).with_name("index.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    entries = [
        {
            "figure": figure,
            "light": _embedded((folder / f"{figure.name}.png").read_bytes()),
            "dark": _embedded(png(figure, DARK)),
        }
        for figure in figures
    ]
    return environment.from_string(source).render(model=model, entries=entries, left_out=left_out)


def _embedded(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"
