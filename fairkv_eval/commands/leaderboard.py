"""``fairkv leaderboard``: rank results with paired differences, in four formats, or as a Space."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fairkv_eval.commands.parser import names

if TYPE_CHECKING:
    from fairkv_eval.leaderboard.board import Board

EXAMPLES = (
    "fairkv leaderboard results/baseline",
    "fairkv leaderboard results/baseline runs/mine --output_path page",
    "fairkv leaderboard results/baseline --average raccoon_plain,sys_ifeval_flipped --output_path page",
    "fairkv leaderboard results/baseline --space space",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, help="result files of the harness, or folders of them")
    parser.add_argument(
        "--output_path",
        type=Path,
        help="folder to write leaderboard.{json,csv,md,html} to (default: the first folder named)",
    )
    parser.add_argument(
        "--average",
        type=names,
        action="extend",
        default=[],
        metavar="TASKS",
        help="tasks that averages are over, joined by commas: a policy has an average if it has a result of every one "
        "that the full cache of its model has (default: all tasks)",
    )
    parser.add_argument(
        "--space",
        type=Path,
        metavar="FOLDER",
        help="write a static Hugging Face Space to this folder: index.html, README.md with its front matter, and the "
        "data; the four files beside the results are then only written with --output_path",
    )


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.files import folder
    from fairkv_eval.leaderboard.board import build
    from fairkv_eval.results.reader import read

    first = args.results[0]
    top = first if first.is_dir() else first.parent
    space = folder(args.space) if args.space else None
    into = folder(args.output_path or top) if args.output_path or not space else None
    board = build(read(args.results, across_models=True), top, args.average)
    written = _write(board, into, "leaderboard.html") if into else []
    written += _write(board, space, "index.html") if space else []
    _report(board, written)


def _write(board: Board, into: Path, page: str) -> list[Path]:
    """Write the formats, and a README if the page is that of a Space."""
    from fairkv_eval.files import write
    from fairkv_eval.leaderboard.board import dumped
    from fairkv_eval.leaderboard.html import as_html
    from fairkv_eval.leaderboard.space import readme
    from fairkv_eval.leaderboard.tables import as_csv, as_markdown

    formats = {"leaderboard.json": dumped, "leaderboard.csv": as_csv, "leaderboard.md": as_markdown, page: as_html}
    if page == "index.html":
        formats["README.md"] = readme
    return [write(into / name, text(board)) for name, text in formats.items()]


def _report(board: Board, written: list[Path]) -> None:
    from fairkv_eval.commands.terminal import console, show
    from fairkv_eval.results.left_out import folded

    results = sum(len(row.tasks) for row in board.rows)
    parts = [f"{results} results in {len(board.rows)} rows; tasks: {', '.join(board.tasks)}"]
    if board.left_out:
        entries = (f"{omission.file}: {omission.reason}" for omission in board.left_out)
        parts += ["left out:", *(f"  {reason}" for reason in folded(entries, "leaderboard.json"))]
    show(console(), [*parts, *(f"wrote {path}" for path in written)])
