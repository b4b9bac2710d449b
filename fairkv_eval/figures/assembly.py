"""A figure put together: the task in its question, its axis, and where its values come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fairkv_eval.figures.figure import Figure, Horizontal, Row
from fairkv_eval.figures.lines import NO_PRESS
from fairkv_eval.figures.model_results import ModelResults, TaskResults
from fairkv_eval.figures.panels import share_of_the_cache
from fairkv_eval.figures.source import source


def assembled(
    results: ModelResults,
    name: str,
    question: str,
    sentence: str,
    tasks: Sequence[TaskResults],
    rows: Sequence[Row],
    x: Horizontal | None = None,
) -> Figure:
    """The figure of these rows without the empty ones. The axis is the share of the cache if ``x`` is None."""
    shown = list({task.name: task for task in tasks}.values())
    where = f" ({shown[0].name})" if len(shown) == 1 else ""
    filled = tuple(row for row in rows if row.panels)
    origin = source(results.model, shown) if shown else ""
    return Figure(name, question + where, sentence, x or share_of_the_cache(shown), filled, origin)


def of_presses(figure: Figure) -> Figure:
    """The figure without the panels of no press, which keeps all pairs."""
    panels = [tuple(panel for panel in row.panels if panel.column != NO_PRESS) for row in figure.rows]
    rows = (replace(row, panels=shown) for row, shown in zip(figure.rows, panels, strict=True) if shown)
    return replace(figure, rows=tuple(rows))
