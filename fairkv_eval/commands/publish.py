"""``fairkv publish``: results that can be passed on, without documents, prompts, answers and paths."""

from __future__ import annotations

import argparse
from pathlib import Path

from fairkv_eval.commands.terminal import console, show

EXAMPLES = ("fairkv publish runs/mine --output_path results/mine",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", type=Path, help="result files of the harness, or folders of them")
    parser.add_argument("--output_path", type=Path, required=True, help="folder to write them to")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.results.publish import publish

    written, left_out = publish(args.results, args.output_path)
    lines = [f"{len(written)} result files in {args.output_path}"]
    if left_out:
        lines += ["left out:", *(f"  {problem.path.name}: {problem.reason}" for problem in left_out)]
    show(console(), lines)
