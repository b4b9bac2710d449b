"""The picture of a view: its question, legend and colour bar, all of it on the page."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import made_view
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from fairkv_eval.view.png import draw
from fairkv_eval.view.view import View


def words(view: View, path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], tuple[int, int]]:
    """{text: its box} of all but single letters and numbers, and the size of the page in pixels."""
    boxes: dict[str, Any] = {}
    size = (0, 0)
    save = Figure.savefig

    def saved(figure: Any, *args: Any, **kwargs: Any) -> None:
        nonlocal size
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        size = canvas.get_width_height()
        for text in figure.findobj(Text):
            if text.get_visible() and len(text.get_text()) > 1 and any(map(str.isalpha, text.get_text())):
                boxes[text.get_text()] = text.get_window_extent(canvas.get_renderer())
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", saved)
    draw(view, path / "view.png")
    return boxes, size


def test_the_picture_has_question_legend_and_colour_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = made_view.view()
    boxes, _ = words(view, tmp_path, monkeypatch)
    assert "Which tokens survive tova ratio=0.5?" in boxes
    assert "a_task, doc 3: 120 tokens of context, 50.0% of their KV pairs kept" in boxes
    rates = [f"■ {name}: {rate:.1%} kept" for name, rate in view.keep_rates.items()]
    assert {*rates, "■ template, between segments"} <= set(boxes)
    assert {"none", "half", "all", "share of a layer's heads that keep a position"} <= set(boxes)


@pytest.mark.parametrize("segments", [1, 9])
def test_words_are_on_the_page_and_not_on_one_another(
    segments: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, (width, height) = words(made_view.view(segments), tmp_path, monkeypatch)
    for text, box in boxes.items():
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text
    for (one, first), (other, second) in itertools.combinations(boxes.items(), 2):
        apart = first.x1 <= second.x0 or second.x1 <= first.x0 or first.y1 <= second.y0 or second.y1 <= first.y0
        assert apart, (one, other)
