"""``fairkv recommend``: how far a cache can be compressed without losing more than a bound."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.terminal import console, show

if TYPE_CHECKING:
    from rich.table import Table

    from fairkv_eval.analysis.recommend import Candidate, Recommendation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", help="folders or files of results, run with --log_samples")
    parser.add_argument("--max_drop", type=float, default=0.02, help="largest expected loss to the full cache (0.02)")
    parser.add_argument("--alpha", type=float, default=0.1, help="chance that a recommendation exceeds it (0.1)")
    parser.add_argument("--metric", help="default: the one that stands for the task, prompt_level_strict_acc say")
    parser.add_argument(
        "--task", action="append", default=[], help="may be repeated; default: all, and a policy must hold on each"
    )
    parser.add_argument("--model", help="needed where the results are of several models")
    parser.add_argument(
        "--range", type=float, nargs=2, default=(0.0, 1.0), metavar=("LOW", "HIGH"), help="of the metric (0 1)"
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.analysis.recommend import recommend

    found = recommend(
        args.results,
        max_drop=args.max_drop,
        alpha=args.alpha,
        metric=args.metric,
        tasks=args.task,
        model=args.model,
        between=tuple(args.range),
    )
    if args.json:
        print(json.dumps(_plain(found), indent=2, allow_nan=False))
        return
    low, high = args.range
    left_out = [f"Left out: {reason}." for reason in found.left_out]
    show(console(), [_headline(found) + "\n", _table(found), "\n" + _assumptions(found, low, high), *left_out])


def _headline(found: Recommendation) -> str:
    within = f"a loss of at most {found.max_drop:g} against the full cache, with confidence {1 - found.alpha:g}"
    if found.best:
        return f"Recommended for {found.model}: {found.best.policy.label} ({found.best.ratio:.0%} evicted): {within}."
    return f"Recommended for {found.model}: none has {within}. {_reason(found)}"


def _reason(found: Recommendation) -> str:
    """Why none passed: how close the closest came, and what it would take."""
    first = [family[0] for family in found.families]
    closest = min(first, key=lambda c: max(loss.bound for loss in c.losses))
    worst = max(closest.losses, key=lambda loss: loss.bound)
    told = (
        f"The closest is {closest.policy.label}: its loss of {worst.metric} on {worst.task}, {worst.mean:.4f} over "
        f"{worst.n} documents, is bounded by {worst.bound:.4f}"
    )
    if worst.needed is None:
        return f"{told}; no number of documents would change that, its mean loss is too close to the bound or above it."
    return f"{told}; if losses went on like this, {worst.needed:,} documents would do."


def _table(found: Recommendation) -> Table:
    """For each press and setting its strongest that passed, or its first that did not."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for header in ("press and setting", "evicted", "task", "metric"):
        table.add_column(header, no_wrap=True)
    for header in ("n", "loss", "bound", "documents needed"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("")
    for family in found.families:
        for candidate in _told(family):
            for loss in candidate.losses:
                table.add_row(
                    candidate.policy.label,
                    f"{candidate.ratio:.0%}",
                    loss.task,
                    loss.metric,
                    str(loss.n),
                    f"{loss.mean:+.4f}",
                    f"{loss.bound:.4f}",
                    "-" if loss.needed is None else f"{loss.needed:,}",
                    "holds" if candidate.passed else "not shown",
                )
    return table


def _told(family: list[Candidate]) -> list[Candidate]:
    """The last that passed and the first that did not."""
    passed = [candidate for candidate in family if candidate.passed]
    return passed[-1:] + family[len(passed) : len(passed) + 1]


def _assumptions(found: Recommendation, low: float, high: float) -> str:
    return (
        f"What this promises: the chance that any policy marked as holding loses more than {found.max_drop:g} in "
        f"expectation is at most {found.alpha:g}. It assumes that the documents were drawn independently from what "
        "the model will meet (same kind of prompts, model and generation settings), that none was used to design the "
        f"press or to choose these results, and that the metric lies in {low:g} to {high:g}. How: a betting test on "
        "the paired losses by document (arXiv 2010.09686), in a fixed sequence from weak to strong compression up to "
        f"the first that fails, at level {found.level:.2g} for each of {len(found.families)} presses and settings "
        "(Bonferroni; learn then test, arXiv 2110.01052). Bound: what the loss stays below at that level."
    )


def _plain(found: Recommendation) -> dict[str, Any]:
    def candidate(of: Candidate) -> dict[str, Any]:
        return {"label": of.policy.label, **asdict(of)}

    return {
        **{name: getattr(found, name) for name in ("model", "max_drop", "alpha", "level", "left_out")},
        "best": candidate(found.best) if found.best else None,
        "families": [[candidate(c) for c in family] for family in found.families],
    }
