"""``fairkv breakdown``: a run's accuracy and leakage by class of instruction, pair, number, and prompt length."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.terminal import console, show
from fairkv_eval.errors import UsageError
from fairkv_eval.files import write_whole

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fairkv_eval.analysis.breakdown import Length, Row

_TITLES = {
    "class": "by class of instruction",
    "id": "by instruction",
    "pair": "by pairs of classes in one prompt",
    "number": "one instruction or several",
    "length": "by length of the system prompt",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("samples", nargs="+", type=Path, help="samples_*.jsonl of runs with --log_samples")
    parser.add_argument("--by", help=f"which tables, joined by commas (default: {','.join(_TITLES)})")
    parser.add_argument(
        "--metric", action="append", default=[], help="a metric of documents in place of the usual ones"
    )
    parser.add_argument("--bins", type=int, default=4, help="how many stretches of prompt length (default: 4)")
    parser.add_argument(
        "--length", choices=("words", "tokens"), default="words", help="unit of length (default: words)"
    )
    parser.add_argument("--pretrained", help="whose tokens are counted (default: as fairkv's)")
    parser.add_argument("--csv", type=Path, help="write all figures into this file, one a line")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> None:
    if args.bins < 1:
        raise UsageError(f"--bins {args.bins} is not allowed; it takes a whole number from 1")
    if args.csv and not args.csv.absolute().parent.is_dir():
        raise UsageError(f"{args.csv}: there is no folder {str(args.csv.parent)!r} to write it into")
    from fairkv_eval.analysis.breakdown import read, rows

    by = args.by.split(",") if args.by else list(_TITLES)
    length = _length(args)
    found: dict[str, list[Row]] = {}
    for path, name in zip(args.samples, _names(args.samples), strict=True):
        samples = read(path, length) if length else read(path)
        found[name] = rows(samples, by, args.metric, args.bins, args.length)
    if args.csv:
        _write(args.csv, found)
    if args.json:
        flat = [{"samples": name, **asdict(row)} for name, own in found.items() for row in own]
        print(json.dumps(flat, indent=1, ensure_ascii=False))
        return
    parts = [part for name, own in found.items() for part in ("", *_tables(name, own, by))]
    show(console(), parts[1:])


def _length(args: argparse.Namespace) -> Length | None:
    if args.length == "words":
        return None
    from fairkv_eval.pretrained import load_tokenizer

    tokenizer = load_tokenizer(args.pretrained)
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


def _names(paths: Sequence[Path]) -> list[str]:
    """Short names of files, as long as they differ."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _tables(name: str, found: Sequence[Row], by: Sequence[str]) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    yield Text(name, style="bold")
    for kind in by:
        own = [row for row in found if row.by == kind]
        yield Text(f"\n{_TITLES[kind]}" + ("" if own else ": nothing in this file"))
        if not own:
            continue
        metrics = list(dict.fromkeys(row.metric for row in own))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        table.add_column(kind, overflow="fold")
        for header in ("documents", *metrics):
            table.add_column(header, justify="right", overflow="fold")
        for group in dict.fromkeys(row.group for row in own):
            cells = {row.metric: row for row in own if row.group == group}
            documents = max(row.documents for row in cells.values())
            table.add_row(group, str(documents), *(_cell(cells.get(metric)) for metric in metrics))
        yield table


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    return f"{row.value:.3f} ± {row.stderr:.3f}" if row.stderr is not None else f"{row.value:.3f}"


def _write(path: Path, tables: dict[str, list[Row]]) -> None:
    import pandas as pd

    lines: list[dict[str, Any]] = [{"samples": name, **asdict(row)} for name, rows in tables.items() for row in rows]
    write_whole(path, lambda draft: pd.DataFrame(lines).to_csv(draft, index=False))
