"""``fairkv figures``: draw what results show."""

from __future__ import annotations

import argparse
import re
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", nargs="+", help="folders or files of results; runs with --log_samples give more intervals"
    )
    parser.add_argument(
        "--output", type=Path, help="folder to draw into (default: figures/ in the first folder of results)"
    )
    parser.add_argument("--task", action="append", default=[], help="only this task; may be repeated")
    parser.add_argument("--model", help="only this model")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.errors import UsageError
    from fairkv_eval.figures.kinds import figures
    from fairkv_eval.figures.model_results import arrange
    from fairkv_eval.figures.plotting import save
    from fairkv_eval.results.selection import selected

    selection = selected(args.results, args.model, args.task)
    models, left_out = arrange(selection.records)
    first = Path(args.results[0])
    output = args.output or (first if first.is_dir() else first.parent) / "figures"
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output {output} is a file; it takes a folder")
    total = 0
    for results in models:
        folder = output / re.sub(r"[^\w.-]+", "_", results.model) if len(models) > 1 else output
        drawn, missing = figures(results)
        total += len(drawn)
        for figure in drawn:
            save(figure, folder)
        print(f"{results.model}: {len(drawn)} figures, PNG and SVG, in {folder}")
        for figure in drawn:
            print(f"  {figure.name}: {figure.title}")
        for reason in missing:
            print(f"  left out: {reason}")
    for reason in [f"{problem.path.name}: {problem.reason}" for problem in selection.problems] + left_out:
        print(f"left out: {reason}")
    if not total:
        raise UsageError("no press at a ratio above 0 in these results, so there is nothing to draw")
