"""``fairkv compare``: do two runs over the same documents differ?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from fairkv_eval.commands.terminal import console, plain_table, show

if TYPE_CHECKING:
    from rich.table import Table

    from fairkv_eval.analysis.two_runs import Comparison, MetricComparison

EXAMPLES = (
    "fairkv compare runs/mine/*/raccoon_demo/full*/results_*.json "
    "runs/mine/*/raccoon_demo/tova_ratio=0.6-*/results_*.json",
)
_SIGNIFICANT = 0.05  # a corrected p-value below it is marked


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, help="a result file that lm_eval wrote with --log_samples")
    parser.add_argument("b", type=Path, help="the result file to compare with it; differences are b − a")
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.analysis.two_runs import compare, plain

    comparison = compare(args.a, args.b)
    if args.json:
        print(json.dumps(plain(comparison), indent=2, allow_nan=False))
        return
    heading = f"a: {comparison.a} ({args.a})\nb: {comparison.b} ({args.b})\n"
    explained = (
        "\nDifference: b − a, with its 95 % interval (paired bootstrap over documents). p: sign-flip permutation test; "
        f"corrected p: for all tests here (Holm); better or worse if it is below {_SIGNIFICANT:g}. Metrics without a "
        "direction are not tested."
    )
    notes = "".join(f"\nNote: {note}." for note in comparison.notes)
    show(console(), [heading, _table(comparison), explained + notes])


def _table(comparison: Comparison) -> Table:
    table = plain_table()
    for header in ("task", "metric"):
        table.add_column(header, no_wrap=True)
    for header in ("n", "a", "b", "difference", "interval", "p", "corrected p"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("b is")
    for row in comparison.rows:
        difference = row.difference
        table.add_row(
            row.task,
            row.metric,
            str(difference.n),
            f"{row.a:.4g}",
            f"{row.b:.4g}",
            f"{difference.mean:+.4g}",
            f"[{difference.low:+.4g}, {difference.high:+.4g}]" if difference.n > 1 else "-",
            "-" if row.corrected is None else f"{difference.p:.2g}",
            "-" if row.corrected is None else f"{row.corrected:.2g}",
            _verdict(row),
        )
    return table


def _verdict(row: MetricComparison) -> str:
    if row.corrected is None or row.corrected >= _SIGNIFICANT:
        return ""
    return "better" if (row.difference.mean > 0) == row.higher_is_better else "worse"
