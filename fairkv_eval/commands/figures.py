"""``fairkv figures``: draw what results show."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from fairkv_eval.commands.parser import names
from fairkv_eval.commands.terminal import console, show

EXAMPLES = (
    "fairkv figures results/baseline --output_path figures",
    "fairkv figures runs/mine --tasks raccoon_demo,sys_ifeval_demo",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "results", nargs="+", help="folders or files of results; runs with --log_samples give more intervals"
    )
    parser.add_argument(
        "--output_path", type=Path, help="folder to draw into (default: figures/ in the first folder of results)"
    )
    parser.add_argument(
        "--tasks", type=names, action="extend", default=[], help="only these tasks, joined by commas (default: all)"
    )
    parser.add_argument("--model", help="only this model")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.errors import UsageError
    from fairkv_eval.figures.kinds import figures
    from fairkv_eval.figures.model_results import arrange
    from fairkv_eval.figures.plotting import save
    from fairkv_eval.results.selection import selected

    selection = selected(args.results, args.model, args.tasks)
    models, left_out = arrange(selection.records)
    first = Path(args.results[0])
    output = args.output_path or (first if first.is_dir() else first.parent) / "figures"
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output_path {output} is a file; it takes a folder")
    total = 0
    lines: list[str] = []
    for results in models:
        folder = output / re.sub(r"[^\w.-]+", "_", results.model) if len(models) > 1 else output
        drawn, missing = figures(results)
        total += len(drawn)
        for figure in drawn:
            save(figure, folder)
        lines.append(f"{results.model}: {len(drawn)} figures, PNG and SVG, in {folder}")
        lines += [f"  {figure.name}: {figure.title}" for figure in drawn]
        lines += [f"  left out: {reason}" for reason in missing]
    tasks = [task for results in models for task in results.tasks]
    problems = [*selection.problems, *(problem for task in tasks for problem in task.samples.problems)]
    lines += [f"left out: {reason}" for reason in [*(f"{p.path.name}: {p.reason}" for p in problems), *left_out]]
    if lines:
        show(console(), lines)
    if not total:
        raise UsageError("no press at a ratio above 0 in these results, so there is nothing to draw")
