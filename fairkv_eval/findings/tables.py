"""Findings as Markdown and as plain values for JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from fairkv_eval.escaping import for_markdown
from fairkv_eval.findings.across_models import EACH, across_models, unlike_tasks
from fairkv_eval.findings.report import ModelReport
from fairkv_eval.findings.verdict import JudgedClaim, JudgedRow, numbers_of
from fairkv_eval.results.left_out import folded

RULE = (
    "Estimate: the mean over documents, presses and ratios, with its 95 % interval (bootstrap over documents). p: "
    "corrected (Holm) for the measures of a claim or, of a press, for the presses. Verdict: appears or opposite if the "
    "interval excludes 0 and p is below 0.05; not seen if the interval lies within ±{size}; otherwise it cannot be "
    "told. A claim of little loss appears if the interval excludes a loss of {size}. A claim has the verdict of its "
    "first measure, a finding the weakest of its claims. Documents: to tell {size} with a power of {power:g} %, under "
    "the same policies."
)


def rule(report: ModelReport) -> str:
    return RULE.format(size=size_in_words(report), power=100 * report.goal.power)


def left_out(report: ModelReport) -> Iterator[str]:
    """A line for each reason why results are used by no finding."""
    yield from (f"Left out: {reason}." for reason in folded(report.left_out, "--format json"))


def size_in_words(report: ModelReport) -> str:
    return f"{100 * report.goal.size:g} points"


def rows_of(claim: JudgedClaim, by_press: bool) -> Iterator[JudgedRow]:
    """The rows over all presses task by task, each followed by those of its presses if they are wanted."""
    tasks = list(dict.fromkeys(row.contrast.task for row in claim.rows))
    for row in sorted(claim.rows, key=lambda row: tasks.index(row.contrast.task)):
        yield row
        yield from (of for of in claim.by_press if by_press and of.contrast.measure == row.contrast.measure)


def as_markdown(reports: Sequence[ModelReport], by_press: bool = False) -> str:
    parts = [part for report in reports for part in _of_model(report, by_press)]
    beside = [_side_by_side(reports), *map(for_markdown, notes(reports))] if len(reports) > 1 else []
    return "\n\n".join([*beside, *parts, *(rule(report) for report in reports[:1])]) + "\n"


def notes(reports: Sequence[ModelReport]) -> list[str]:
    """What a reader of several models side by side must know."""
    return [EACH, *(f"{sentence}." for sentence in unlike_tasks(reports))]


def _side_by_side(reports: Sequence[ModelReport]) -> str:
    header = ("finding", "claim", "measure", *(for_markdown(report.model) for report in reports))
    lines, statement = [header, ("---",) * len(header)], ""
    for claim in across_models(reports):
        start = f"**{claim.statement}**" + (f" (the paper: {claim.reported})" if claim.reported else "")
        shown = (claim.measured, for_markdown(claim.measure), *map(for_markdown, claim.shown))
        lines.append((start if claim.statement != statement else "", *shown))
        statement = claim.statement
    return "\n".join(map(_line, lines))


def _of_model(report: ModelReport, by_press: bool) -> Iterator[str]:
    yield f"## {for_markdown(report.model)}"
    press = ("press",) if by_press else ()
    numbers = ("n", "estimate", "95 % interval", "corrected p", "verdict", "documents")
    header = ("finding", "claim", "measure", *press, *numbers)
    lines = [header, ("---",) * len(header)]
    for judged in report.findings:
        rows = [row for claim in judged.claims for row in _claim_lines(claim, by_press, len(header) - 1)]
        starts = [f"**{judged.finding.statement}: {judged.verdict}**", *[""] * (len(rows) - 1)]
        lines += [(start, *row) for start, row in zip(starts, rows, strict=True)]
    yield "\n".join(_line(cells) for cells in lines)
    if report.sizes:
        yield f"Documents that a claim of {size_in_words(report)} about two policies takes:"
        yield "\n".join(_line(cells) for cells in _size_lines(report))
    yield from map(for_markdown, left_out(report))


def _claim_lines(claim: JudgedClaim, by_press: bool, columns: int) -> Iterator[tuple[str, ...]]:
    start = claim.claim.measured
    for row in rows_of(claim, by_press):
        of = row.contrast
        press = (for_markdown(of.group),) if by_press else ()
        detail = f" ({of.detail})" if of.detail else ""
        yield start, for_markdown(f"{of.measure}{detail}"), *press, str(of.n), *numbers_of(row)
        start = ""
    if not claim.rows:
        yield start, f"needs {claim.claim.needs}", *[""] * (columns - 4), claim.verdict, "-"


def _size_lines(report: ModelReport) -> Iterator[tuple[str, ...]]:
    header = ("task", "metric", "difference", "pairs", "deviation", "documents, median", "most")
    yield header
    yield ("---",) * len(header)
    for of in report.sizes:
        names = for_markdown(of.task), for_markdown(of.metric), of.comparison
        yield *names, str(of.pairs), f"{of.deviation:.3f}", f"{of.median:,}", f"{of.most:,}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_json(reports: Sequence[ModelReport]) -> str:
    return json.dumps([_plain(report) for report in reports], indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(report: ModelReport) -> dict[str, Any]:
    return {
        "model": report.model,
        "tasks": {task: {"version": of.version, "n": len(of.documents)} for task, of in report.tasks.items()},
        "size": report.goal.size,
        "power": report.goal.power,
        "findings": [
            {
                **{name: getattr(judged.finding, name) for name in ("name", "statement", "reported")},
                "verdict": judged.verdict,
                "claims": [_plain_claim(claim) for claim in judged.claims],
            }
            for judged in report.findings
        ],
        "documents_needed": [asdict(size) for size in report.sizes],
        "left_out": list(report.left_out),
    }


def _plain_claim(claim: JudgedClaim) -> dict[str, Any]:
    return {
        **{name: getattr(claim.claim, name) for name in ("measured", "rule", "needs")},
        "verdict": claim.verdict,
        "rows": [_plain_row(row) for row in claim.rows],
        "by_press": [_plain_row(row) for row in claim.by_press],
    }


def _plain_row(row: JudgedRow) -> dict[str, Any]:
    numbers = {name: _finite(value) for name, value in asdict(row.contrast).items()}
    return {**numbers, "corrected_p": row.corrected, "verdict": row.verdict, "documents_needed": row.needed}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
