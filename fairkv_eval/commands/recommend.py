"""``fairkv recommend``: the strongest compression that does not lose more than a bound."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from fairkv_eval.commands.parser import names
from fairkv_eval.commands.terminal import console, plain_table, show

if TYPE_CHECKING:
    from rich.table import Table

    from fairkv_eval.analysis.recommend import Candidate, Recommendation

EXAMPLES = (
    "fairkv recommend results/baseline --tasks sys_ifeval_defended",
    "fairkv recommend results/baseline --tasks raccoon_plain,sys_ifeval_defended --max_drop 0.05 --alpha 0.05",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", help="folders or files of results, run with --log_samples")
    parser.add_argument(
        "--max_drop", type=float, default=0.02, help="largest expected loss against the full cache (default: 0.02)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.1, help="chance that a recommendation exceeds it (default: 0.1)"
    )
    parser.add_argument("--metric", help="metric to bound (default: the task's main one, e.g. prompt_level_strict_acc)")
    parser.add_argument(
        "--tasks",
        type=names,
        action="extend",
        default=[],
        help="tasks to test, joined by commas (default: all). A policy must hold on each",
    )
    parser.add_argument("--model", help="model to test; needed if the results are of several")
    parser.add_argument(
        "--range",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="possible values of the metric (default: 0 1)",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.analysis.recommend import recommend
    from fairkv_eval.results.left_out import folded

    advice = recommend(
        args.results,
        max_drop=args.max_drop,
        alpha=args.alpha,
        metric=args.metric,
        tasks=args.tasks,
        model=args.model,
        value_range=tuple(args.range),
    )
    if args.json:
        print(json.dumps(_plain(advice), indent=2, allow_nan=False))
        return
    low, high = args.range
    parts: list[Any] = [_headline(advice) + "\n", _table(advice), "\n" + _assumptions(advice, low, high)]
    left_out = [f"Left out: {reason}." for reason in folded(advice.left_out, "--json")]
    show(console(), [*parts, *left_out])


def _headline(advice: Recommendation) -> str:
    within = f"a loss of at most {advice.max_drop:g} against the full cache, with confidence {1 - advice.alpha:g}"
    if advice.best:
        return (
            f"Recommended for {advice.model}: {advice.best.policy.label} ({advice.best.held:.0%} of the KV bytes held, "
            f"{advice.best.ratio:.0%} of the pairs evicted): {within}."
        )
    return f"Recommended for {advice.model}: none has {within}. {_reason(advice)}"


def _reason(advice: Recommendation) -> str:
    """Why none passed: how close the closest came, and what it would take."""
    first = [family[0] for family in advice.families]
    closest = min(first, key=lambda c: max(loss.bound for loss in c.losses))
    worst = max(closest.losses, key=lambda loss: loss.bound)
    closeness = (
        f"The closest is {closest.policy.label}: its loss of {worst.metric} on {worst.task}, {worst.mean:.4f} over "
        f"{worst.n} documents, is bounded by {worst.bound:.4f}"
    )
    if worst.needed is None:
        return (
            f"{closeness}; no number of documents would change that: its mean loss is too close to the bound or above."
        )
    return f"{closeness}; with more losses like these, {worst.needed:,} documents would do."


def _table(advice: Recommendation) -> Table:
    """For each press and setting the strongest policy that passed, and the next one."""
    table = plain_table()
    for header in ("press and setting", "held", "evicted", "task", "metric"):
        table.add_column(header, no_wrap=True)
    for header in ("n", "loss", "bound", "documents needed"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("")
    for family in advice.families:
        for candidate in _last_and_next(family):
            for loss in candidate.losses:
                table.add_row(
                    candidate.policy.label,
                    f"{candidate.held:.0%}",
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


def _last_and_next(family: list[Candidate]) -> list[Candidate]:
    """The last candidate that passed and the first that did not."""
    passed = [candidate for candidate in family if candidate.passed]
    return passed[-1:] + family[len(passed) : len(passed) + 1]


def _assumptions(advice: Recommendation, low: float, high: float) -> str:
    return (
        f"What this promises: the chance that any policy marked as holding loses more than {advice.max_drop:g} in "
        f"expectation is at most {advice.alpha:g}. It assumes that the documents were drawn independently from what "
        "the model will meet (same kind of prompts, model and generation settings), that none was used to design the "
        f"press or to choose these results, and that the metric lies in {low:g} to {high:g}. How: a betting test on "
        "the paired losses by document (arXiv 2010.09686), in a fixed sequence from weak to strong compression up to "
        f"the first that fails, at level {advice.level:.2g} for each of {len(advice.families)} presses and settings "
        "(Bonferroni; learn then test, arXiv 2110.01052). Bound: the loss stays below it at that level."
    )


def _plain(advice: Recommendation) -> dict[str, Any]:
    def candidate(of: Candidate) -> dict[str, Any]:
        return {"label": of.policy.label, **asdict(of)}

    return {
        **{name: getattr(advice, name) for name in ("model", "max_drop", "alpha", "level", "left_out")},
        "best": candidate(advice.best) if advice.best else None,
        "families": [[candidate(c) for c in family] for family in advice.families],
    }
