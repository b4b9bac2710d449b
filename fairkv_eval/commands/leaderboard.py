"""``fairkv leaderboard``: rank results with paired differences, in four formats."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fairkv_eval.leaderboard.board import Board

EXAMPLES = ("fairkv leaderboard results/baseline", "fairkv leaderboard runs/a runs/b --output_path page")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, help="result files of the harness, or folders of them")
    parser.add_argument(
        "--output_path",
        type=Path,
        help="folder to write leaderboard.{json,csv,md,html} to (default: the first folder named)",
    )


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.files import folder, write
    from fairkv_eval.leaderboard.board import build, dumped
    from fairkv_eval.leaderboard.html import as_html
    from fairkv_eval.leaderboard.tables import as_csv, as_markdown
    from fairkv_eval.results.reader import read

    first = args.results[0]
    top = first if first.is_dir() else first.parent
    into = folder(args.output_path or top)
    board = build(read(args.results), top)
    formats = {"json": dumped, "csv": as_csv, "md": as_markdown, "html": as_html}
    written = [write(into / f"leaderboard.{ending}", text(board)) for ending, text in formats.items()]
    _report(board, written)


def _report(board: Board, written: list[Path]) -> None:
    from fairkv_eval.commands.terminal import console, show

    results = sum(len(row.tasks) for row in board.rows)
    parts = [f"{results} results in {len(board.rows)} rows; tasks: {', '.join(board.tasks)}"]
    if board.left_out:
        parts += ["left out:", *(f"  {omission.file}: {omission.reason}" for omission in board.left_out)]
    show(console(), [*parts, *(f"wrote {path}" for path in written)])
