"""A view without a model: what survives is drawn at random."""

from __future__ import annotations

import random

from press_table import policy

from fairkv_eval.prompts.segments import Segment
from fairkv_eval.view.view import Concentration, LayerView, View


def view(segments: int = 2, n: int = 120, layers: int = 6) -> View:
    """``segments`` of the same length, with a template's tokens before, between and after them."""
    draw = random.Random(0)
    length = n // (segments + 1)
    made = [
        Segment(f"instruction_number_{i}", i * (length + 1) + 2, (i + 1) * (length + 1) + 1) for i in range(segments)
    ]
    shown = [
        LayerView(
            i,
            [draw.choice((0.0, 0.5, 1.0)) for _ in range(n)],
            [n // 2] * 2,
            None,
            Concentration(draw.random(), draw.random(), draw.random()),
        )
        for i in range(layers)
    ]
    rates = {segment.name: draw.random() for segment in made}
    tokens = [f"word{i} " for i in range(n + 5)]
    return View("a_task", 3, policy("tova", 0.5), tokens, n, made, shown, 0.5, rates, "An answer.")
