"""A leaderboard as CSV, one line a row, task and metric, and as Markdown, one table a task."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from fairkv_eval.eviction.policy_arguments import ARGUMENTS
from fairkv_eval.leaderboard.board import METHOD, Board

_OF_ROW = ("model", "source", "policy", "variant", "press", "base", *(argument.name for argument in ARGUMENTS))
_OF_TASK = ("documents", "limit", "achieved_ratio", "kv_bytes_full", "kv_bytes_kept")
_ORIGIN = ("date", "commit", "file", "cell", "command")
_DIFFERENCE = ("mean", "low", "high", "p", "p_corrected", "n")


def as_csv(board: Board) -> str:
    """Tidy: a line for each metric of each task of each row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [*_OF_ROW, "task", "metric", "higher_is_better", "value", "stderr", "n", "rank"]
        + [f"{kind}_{part}" for kind in ("vs_full", "vs_plain") for part in _DIFFERENCE]
        + [*_OF_TASK, "prefill_tokens_per_second", "decode_tokens_per_second", *_ORIGIN]
    )
    for row, task, entry in _entries(board):
        of_row = ["+".join(row[name]) if isinstance(row[name], list) else row[name] for name in _OF_ROW]
        speeds = [entry["tokens_per_second"].get(kind) for kind in ("prefill", "decode")]
        for name, metric in entry["metrics"].items():
            better = board.data["tasks"][task]["metrics"][name]
            told = [metric["value"], metric["stderr"], metric["n"], metric.get("rank")]
            told += [metric.get(kind, {}).get(part) for kind in ("vs_full", "vs_plain") for part in _DIFFERENCE]
            rest = [entry[name] for name in _OF_TASK] + speeds + [entry[name] for name in _ORIGIN]
            writer.writerow([*of_row, task, name, better, *told, *rest])
    return text.getvalue()


def as_markdown(board: Board) -> str:
    """A table a task, ranked on its main metric; then what was left out and how to read it."""
    parts = ["# Leaderboard"]
    for task, about in board.data["tasks"].items():
        metric = about["main_metric"]
        better = {True: "higher is better", False: "lower is better", None: "no better direction"}
        direction = better[about["metrics"].get(metric)]
        parts.append(f"## {_cell(task)}")
        parts.append(f"{_cell(metric)} ({direction}), {about['documents']} documents, task version {about['version']}.")
        parts.append(_table(board, task, metric))
    if board.data["left_out"]:
        parts.append("## Left out")
        parts.append("\n".join(f"- {_cell(p['file'])}: {_cell(p['reason'])}" for p in board.data["left_out"]))
    parts.append("## How to read it")
    parts.append(METHOD)
    return "\n\n".join(parts) + "\n"


def by_rank(board: Board, task: str, metric: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(row, entry) of a task, best rank first, then by value; rows without the metric are last."""
    sign = -1 if board.data["tasks"][task]["metrics"].get(metric) is not False else 1
    found = [(row, entry) for row, name, entry in _entries(board) if name == task]

    def place(pair: tuple[dict[str, Any], dict[str, Any]]) -> tuple[bool, float, float]:
        told = pair[1]["metrics"].get(metric, {})
        value = told.get("value")
        return value is None, told.get("rank") or float("inf"), sign * (value or 0.0)

    return sorted(found, key=place)


def _table(board: Board, task: str, metric: str) -> str:
    header = ["rank", "model", "policy", metric, "Δ full cache [95 %]", "p", "Δ plain [95 %]", "p", "ratio achieved"]
    header += ["KV MB", "tok/s", "date", "commit"]
    lines = [header, ["---"] * len(header)]
    for row, entry in by_rank(board, task, metric):
        told = entry["metrics"].get(metric, {})
        kept = entry["kv_bytes_kept"]
        lines.append(
            [
                _number(told.get("rank"), "d"),
                row["model"],
                f"{row['policy']} ({row['variant']})" if row["variant"] else row["policy"],
                _with_error(told),
                *(_difference(told.get("vs_full")) + _difference(told.get("vs_plain"))),
                _number(entry["achieved_ratio"], ".3f"),
                _number(None if kept is None else kept / 1e6, ".2f"),
                _number(entry["tokens_per_second"].get("decode"), ".0f"),
                (entry["date"] or "–")[:10],
                (entry["commit"] or "–")[:9],
            ]
        )
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _entries(board: Board) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    for row in board.data["rows"]:
        for task, entry in row["tasks"].items():
            yield row, task, entry


def _with_error(metric: dict[str, Any]) -> str:
    value = _number(metric.get("value"), ".4f")
    return value if metric.get("stderr") is None else f"{value} ± {metric['stderr']:.4f}"


def _difference(told: dict[str, Any] | None) -> list[str]:
    """The difference with its interval, and the corrected p-value."""
    if told is None:
        return ["–", "–"]
    interval = "" if told["low"] is None else f" [{told['low']:+.4f}, {told['high']:+.4f}]"
    return [f"{told['mean']:+.4f}{interval}", f"{told['p_corrected']:.3g}"]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _cell(text: object) -> str:
    """Text that stays in its cell and is no markup."""
    one_line = " ".join(str(text).split())
    return (
        one_line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("`", "\\`")
    )
