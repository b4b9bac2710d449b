"""A leaderboard as CSV, one line per row, and as Markdown: averages at equal bytes, then one table per task.

Names come from the results of others: in the CSV none is run as a formula (an apostrophe stands before one that begins
like it), and in the Markdown none is a link or markup.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from typing import Any

from fairkv_eval.escaping import for_markdown, for_spreadsheet
from fairkv_eval.leaderboard.aspects import OVERALL
from fairkv_eval.leaderboard.board import METHOD, Board
from fairkv_eval.leaderboard.rows import CorrectedDifference, MetricEntry, Row, TaskEntry, cells, columns

_DIRECTIONS = {True: "higher is better", False: "lower is better", None: "no better direction"}
_OF_TASK = (
    *("documents", "answers_cut", "achieved_ratio", "kv_bytes_full", "kv_bytes_kept", "held"),
    "decode_tokens_per_second",
)
_OF_METRIC = ("value", "stderr", "rank", "vs_full_mean", "vs_full_p_corrected", "vs_plain_mean", "vs_plain_p_corrected")
_DIGITS = 6  # more than the documents of any run tell apart


def as_csv(board: Board) -> str:
    """One line for each row, with the figures of all tasks: a column ``task.figure`` or ``task.metric.figure``.

    Intervals, commands and origin are in leaderboard.json.
    """
    lines = [_line(board, row) for row in board.rows]
    names = [*columns(Row), *(f"average_{name}" for name in _averaged(board))]
    for task, summary in board.tasks.items():
        names += [f"{task}.{column}" for column in _OF_TASK]
        names += [f"{task}.{metric}.{column}" for metric in summary.metrics for column in _OF_METRIC]
    filled = {name for line in lines for name, value in line.items() if value is not None}
    names = [name for name in names if "." not in name or name in filled]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([for_spreadsheet(name) for name in names])
    writer.writerows([for_spreadsheet(_rounded(line.get(name))) for name in names] for line in lines)
    return text.getvalue()


def _line(board: Board, row: Row) -> dict[str, Any]:
    line = cells(row) | {f"average_{name}": average.value for name, average in row.averages.items()}
    for task, entry in row.tasks.items():
        of_task = cells(entry)
        line |= {f"{task}.{column}": of_task.get(column) for column in _OF_TASK}
        for metric, figures in entry.metrics.items():
            of_metric = cells(figures)
            line |= {f"{task}.{metric}.{column}": of_metric.get(column) for column in _OF_METRIC}
    return line


def _rounded(value: Any) -> Any:
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def as_markdown(board: Board) -> str:
    """Averages of all policies, most bytes first; a table per task by its main metric; what was left out; the rules."""
    parts = ["# Leaderboard"]
    if board.aspects:
        parts += ["## At equal bytes", f"Averages in per cent, higher is better. {board.rule}", _average_table(board)]
    for task, summary in board.tasks.items():
        metric = summary.main_metric or ""
        direction = _DIRECTIONS[summary.metrics.get(metric)]
        parts.append(f"## {for_markdown(task)}")
        version = for_markdown(str(summary.version))
        about = [summary.explanation] if summary.explanation else []
        about.append(f"{for_markdown(metric)} ({direction}), {summary.documents} documents, task version {version}.")
        parts.append(" ".join(about))
        parts.append(_table(board, task, metric))
    if board.left_out:
        parts.append("## Left out")
        omissions = [f"- {for_markdown(left_out.file)}: {for_markdown(left_out.reason)}" for left_out in board.left_out]
        parts.append("\n".join(omissions))
    parts.append("## How to read it")
    parts.append(METHOD)
    return "\n\n".join(parts) + "\n"


def by_place(board: Board, task: str, metric: str) -> list[tuple[Row, TaskEntry]]:
    """(row, entry) of a task, best value first; rows without the metric are last."""
    sign = -1 if board.tasks[task].metrics.get(metric) is not False else 1

    def place(pair: tuple[Row, TaskEntry]) -> tuple[bool, float]:
        entry = pair[1].metrics.get(metric)
        if entry is None or not math.isfinite(entry.value):
            return True, 0.0
        return False, sign * entry.value

    return sorted(((row, entry) for row, name, entry in _entries(board) if name == task), key=place)


def _average_table(board: Board) -> str:
    names = _averaged(board)
    titles = [aspect.title for aspect in board.aspects.values()] + ["Overall"]
    header = ["held", "model", "policy", *titles[: len(names)]]

    def place(row: Row) -> tuple[int, float]:
        average = row.averages.get(OVERALL)
        return -round(100 * (row.held or 0)), -average.value if average else 1.0

    lines = [header, ["---"] * len(header)]
    for row in sorted(board.rows, key=place):
        values = [row.averages[name].value if name in row.averages else None for name in names]
        lines.append([_number(row.held, ".1%"), *_named(row), *(_number(value, ".1%") for value in values)])
    return _drawn(lines)


def _averaged(board: Board) -> list[str]:
    return [*board.aspects, OVERALL] if board.aspects else []


def _table(board: Board, task: str, metric: str) -> str:
    value = for_markdown(metric)
    header = ["rank", "model", "policy", value, "Δ full cache [95 %]", "p", "Δ plain [95 %]", "p", "held"]
    header += ["ratio achieved", "KV MB", "tok/s", "date", "commit"]
    lines = [header, ["---"] * len(header)]
    for row, entry in by_place(board, task, metric):
        lines.append(
            [
                *_ranked(row, entry.metrics.get(metric)),
                _number(entry.held, ".1%"),
                _number(entry.achieved_ratio, ".3f"),
                _number(None if entry.kv_bytes_kept is None else entry.kv_bytes_kept / 1e6, ".2f"),
                _number(entry.tokens_per_second.get("decode"), ".0f"),
                (entry.date or "–")[:10],
                for_markdown((entry.commit or "–")[:9]),
            ]
        )
    return _drawn(lines)


def _drawn(lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _entries(board: Board) -> Iterator[tuple[Row, str, TaskEntry]]:
    for row in board.rows:
        for task, entry in row.tasks.items():
            yield row, task, entry


def _named(row: Row) -> list[str]:
    return [for_markdown(row.model), for_markdown(f"{row.policy} ({row.variant})" if row.variant else row.policy)]


def _ranked(row: Row, metric: MetricEntry | None) -> list[str]:
    if metric is None:
        return ["–", *_named(row), "–", *_difference(None), *_difference(None)]
    places = "–".join(str(place) for place in dict.fromkeys(metric.bracket)) if metric.bracket else "–"
    error = "" if _missing(metric.stderr) else f" ± {metric.stderr:.4f}"
    value = f"{_number(metric.value, '.4f')}{error}"
    differences = _difference(metric.vs_full) + _difference(metric.vs_plain)
    return [places, *_named(row), value, *differences]


def _difference(difference: CorrectedDifference | None) -> list[str]:
    """The difference with its interval, and the corrected p-value."""
    if difference is None:
        return ["–", "–"]
    interval = "" if _missing(difference.low) else f" [{difference.low:+.4f}, {difference.high:+.4f}]"
    return [f"{difference.mean:+.4f}{interval}", f"{difference.p_corrected:.3g}"]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None or _missing(value) else format(value, form)


def _missing(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
