"""``fairkv figures``: draw what results show."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from fairkv_eval.commands.parser import names
from fairkv_eval.commands.terminal import console, show
from fairkv_eval.files import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fairkv_eval.figures.figure import Figure

EXAMPLES = (
    "fairkv figures results/baseline --output_path figures",
    "fairkv figures runs/mine --tasks raccoon_demo,sys_ifeval_demo --all",
    "fairkv figures results/baseline --only class_ranking,fidelity --svg --output_path figures",
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
    parser.add_argument("--all", action="store_true", help="all figures, not only the ten that matter most")
    parser.add_argument(
        "--only", type=names, action="extend", default=[], help="only these figures or kinds of figures, by name"
    )
    parser.add_argument("--svg", action="store_true", help="write SVG beside PNG")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.errors import UsageError
    from fairkv_eval.figures.kinds import check_named, figures
    from fairkv_eval.figures.model_results import arrange
    from fairkv_eval.results.selection import selected

    if args.all and args.only:
        raise UsageError("--all and --only contradict each other; name figures, or draw all")
    selection = selected(args.results, args.model, args.tasks)
    models, left_out = arrange(selection.records)
    first = Path(args.results[0])
    output = args.output_path or (first if first.is_dir() else first.parent) / "figures"
    if output.exists() and not output.is_dir():
        raise UsageError(f"--output_path {output} is a file; it takes a folder")
    made = [figures(results) for results in models]
    check_named([every for every, _ in made], args.only)
    lines: list[str] = []
    for results, (every, missing) in zip(models, made, strict=True):
        folder = output / re.sub(r"[^\w.-]+", "_", results.model) if len(models) > 1 else output
        lines += _drawn(results.model, every, missing, folder, args)
    tasks = [task for results in models for task in results.tasks]
    problems = [*selection.problems, *(problem for task in tasks for problem in task.samples.problems)]
    reasons = [f"left out: {reason}" for reason in [*(f"{p.path.name}: {p.reason}" for p in problems), *left_out]]
    if lines or reasons:
        show(console(), [*lines, *reasons])
    if not lines:
        raise UsageError("no compressed cache in these results, so there is nothing to draw")


def _drawn(
    model: str, every: dict[str, list[Figure]], missing: Sequence[str], folder: Path, args: argparse.Namespace
) -> list[str]:
    """Draw one model's figures and their page; return what was drawn, and what was not."""
    from fairkv_eval.figures.index import page
    from fairkv_eval.figures.kinds import foremost, named
    from fairkv_eval.figures.plotting import save

    drawn = [figure for made in every.values() for figure in made]
    chosen = drawn if args.all else named(every, args.only) if args.only else foremost(every)
    if not chosen:
        return [f"{model}: none of these figures"] if every else []
    for figure in chosen:
        save(figure, folder, args.svg)
    index = write(folder / "index.html", page(model, chosen, missing, folder))
    more = [figure.name for figure in drawn if figure not in chosen]
    return [
        f"{model}: {len(chosen)} figures in {folder}, in reading order on {index}",
        *(f"  {figure.name}: {figure.question}" for figure in chosen),
        *[f"  {len(more)} more by --all or --only: {', '.join(more)}"] * bool(more),
        *(f"  left out: {reason}" for reason in missing),
    ]
