"""``fairkv breakdown``: a run's accuracy and leakage by class of instruction, pair, number, and prompt length."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.parser import names
from fairkv_eval.commands.terminal import console, plain_table, show
from fairkv_eval.errors import UsageError
from fairkv_eval.escaping import for_spreadsheet
from fairkv_eval.files import write_whole

if TYPE_CHECKING:
    from rich.console import RenderableType

    from fairkv_eval.analysis.breakdown import GroupMean, Length

EXAMPLES = (
    "fairkv breakdown runs/mine/*/sys_ifeval_demo/*/samples_*.jsonl",
    "fairkv breakdown runs/mine/*/sys_ifeval_demo/full*/samples_*.jsonl --by class,pair "
    "--metrics prompt_level_strict_acc --csv means.csv",
)
_TITLES = {
    "class": "by class of instruction",
    "id": "by instruction",
    "pair": "by pairs of classes in one prompt",
    "number": "one instruction or several",
    "length": "by length of the system prompt",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("samples", nargs="+", type=Path, help="samples_*.jsonl or .jsonl.gz of runs with --log_samples")
    parser.add_argument(
        "--by", type=names, action="extend", help=f"tables to print, joined by commas (default: {','.join(_TITLES)})"
    )
    parser.add_argument(
        "--metrics",
        type=names,
        action="extend",
        default=[],
        help="metrics of documents in place of the usual ones, joined by commas",
    )
    parser.add_argument("--bins", type=int, default=4, help="number of bins of prompt length (default: 4)")
    parser.add_argument(
        "--length", choices=("words", "tokens"), default="words", help="unit of length (default: words)"
    )
    parser.add_argument("--pretrained", help="model whose tokens are counted (default: fairkv's)")
    parser.add_argument("--csv", type=Path, help="file to write all means into, one per line")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> None:
    if args.bins < 1:
        raise UsageError(f"--bins {args.bins} is not allowed; it takes a whole number from 1")
    if args.csv and not args.csv.absolute().parent.is_dir():
        raise UsageError(f"{args.csv}: there is no folder {str(args.csv.parent)!r} to write it into")
    from fairkv_eval.analysis.breakdown import group_means, read

    by = args.by or list(_TITLES)
    length = _length(args)
    means: dict[str, list[GroupMean]] = {}
    for path, name in zip(args.samples, _names(args.samples), strict=True):
        samples = read(path, length) if length else read(path)
        means[name] = group_means(samples, by, args.metrics, args.bins, args.length)
    if args.csv:
        _write(args.csv, means)
    if args.json:
        print(json.dumps(_flat(means), indent=1))
        return
    parts = [part for name, of_file in means.items() for part in ("", *_tables(name, of_file, by))]
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


def _tables(name: str, means: Sequence[GroupMean], by: Sequence[str]) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(name, style="bold")
    for kind in by:
        of_kind = [mean for mean in means if mean.by == kind]
        yield Text(f"\n{_TITLES[kind]}" + ("" if of_kind else ": nothing in this file"))
        if not of_kind:
            continue
        metrics = list(dict.fromkeys(mean.metric for mean in of_kind))
        table = plain_table()
        table.add_column(kind, overflow="fold")
        for header in ("documents", *metrics):
            table.add_column(header, justify="right", overflow="fold")
        for group in dict.fromkeys(mean.group for mean in of_kind):
            cells = {mean.metric: mean for mean in of_kind if mean.group == group}
            documents = max(mean.documents for mean in cells.values())
            table.add_row(group, str(documents), *(_cell(cells.get(metric)) for metric in metrics))
        yield table


def _cell(mean: GroupMean | None) -> str:
    if mean is None:
        return "-"
    return f"{mean.value:.3f} ± {mean.stderr:.3f}" if mean.stderr is not None else f"{mean.value:.3f}"


def _flat(means: dict[str, list[GroupMean]]) -> list[dict[str, Any]]:
    return [{"samples": name, **asdict(mean)} for name, of_file in means.items() for mean in of_file]


def _write(path: Path, means: dict[str, list[GroupMean]]) -> None:
    import pandas as pd

    write_whole(path, lambda draft: pd.DataFrame(_flat(means)).map(for_spreadsheet).to_csv(draft, index=False))
