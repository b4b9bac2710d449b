"""A leaderboard as CSV, one line per row, task and metric, and as Markdown, one table per task.

Names come from the results of others: in the CSV none is run as a formula (an apostrophe stands before one that begins
like it), and in the Markdown none is a link or markup.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from fairkv_eval.escaping import for_markdown, for_spreadsheet
from fairkv_eval.leaderboard.board import METHOD, Board
from fairkv_eval.leaderboard.rows import CorrectedDifference, MetricEntry, Row, TaskEntry, cells, columns

_DIRECTIONS = {True: "higher is better", False: "lower is better", None: "no better direction"}


def as_csv(board: Board) -> str:
    """Tidy: one line for each metric of each task of each row."""
    text = io.StringIO()
    names = [*columns(Row), "task", "metric", "higher_is_better", *columns(MetricEntry), *columns(TaskEntry)]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row, task, entry in _entries(board):
        of_task = cells(row) | {"task": task} | cells(entry)
        for name, metric in entry.metrics.items():
            better = board.tasks[task].metrics[name]
            line = of_task | {"metric": name, "higher_is_better": better} | cells(metric)
            writer.writerow([for_spreadsheet(line.get(column)) for column in names])
    return text.getvalue()


def as_markdown(board: Board) -> str:
    """A table per task, ranked on its main metric; then what was left out and how to read it."""
    parts = ["# Leaderboard"]
    for task, summary in board.tasks.items():
        metric = summary.main_metric or ""
        direction = _DIRECTIONS[summary.metrics.get(metric)]
        parts.append(f"## {for_markdown(task)}")
        version = for_markdown(str(summary.version))
        parts.append(f"{for_markdown(metric)} ({direction}), {summary.documents} documents, task version {version}.")
        parts.append(_table(board, task, metric))
    if board.left_out:
        parts.append("## Left out")
        omissions = [f"- {for_markdown(left_out.file)}: {for_markdown(left_out.reason)}" for left_out in board.left_out]
        parts.append("\n".join(omissions))
    parts.append("## How to read it")
    parts.append(METHOD)
    return "\n\n".join(parts) + "\n"


def by_rank(board: Board, task: str, metric: str) -> list[tuple[Row, TaskEntry]]:
    """(row, entry) of a task, best rank first, then by value; rows without the metric are last."""
    sign = -1 if board.tasks[task].metrics.get(metric) is not False else 1

    def place(pair: tuple[Row, TaskEntry]) -> tuple[bool, float, float]:
        entry = pair[1].metrics.get(metric)
        if entry is None or not math.isfinite(entry.value):
            return True, math.inf, 0.0
        return False, entry.rank or math.inf, sign * entry.value

    return sorted(((row, entry) for row, name, entry in _entries(board) if name == task), key=place)


def _table(board: Board, task: str, metric: str) -> str:
    header = [
        "rank",
        "model",
        "policy",
        for_markdown(metric),
        "Δ full cache [95 %]",
        "p",
        "Δ plain [95 %]",
        "p",
        "ratio achieved",
    ]
    header += ["KV MB", "tok/s", "date", "commit"]
    lines = [header, ["---"] * len(header)]
    for row, entry in by_rank(board, task, metric):
        lines.append(
            [
                *_ranked(row, entry.metrics.get(metric)),
                _number(entry.achieved_ratio, ".3f"),
                _number(None if entry.kv_bytes_kept is None else entry.kv_bytes_kept / 1e6, ".2f"),
                _number(entry.tokens_per_second.get("decode"), ".0f"),
                (entry.date or "–")[:10],
                for_markdown((entry.commit or "–")[:9]),
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _entries(board: Board) -> Iterator[tuple[Row, str, TaskEntry]]:
    for row in board.rows:
        for task, entry in row.tasks.items():
            yield row, task, entry


def _ranked(row: Row, metric: MetricEntry | None) -> list[str]:
    model = for_markdown(row.model)
    policy = for_markdown(f"{row.policy} ({row.variant})" if row.variant else row.policy)
    if metric is None:
        return ["–", model, policy, "–", *_difference(None), *_difference(None)]
    error = "" if _missing(metric.stderr) else f" ± {metric.stderr:.4f}"
    value = f"{_number(metric.value, '.4f')}{error}"
    differences = _difference(metric.vs_full) + _difference(metric.vs_plain)
    return [_number(metric.rank, "d"), model, policy, value, *differences]


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
