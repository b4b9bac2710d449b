"""``fairkv findings``: do the pitfalls paper's findings appear in these results?"""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fairkv_eval.commands.parser import names, numbers
from fairkv_eval.commands.terminal import console, plain_table, show

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from fairkv_eval.findings.report import ModelReport
    from fairkv_eval.findings.verdict import JudgedClaim, JudgedFinding

EXAMPLES = (
    "fairkv findings results/baseline",
    "fairkv findings results/baseline --tasks raccoon_preference --by_press",
    "fairkv findings results/baseline --tasks sys_ifeval_defended --ratios 0.75,0.9",
    "fairkv findings results/baseline --format markdown --output_path findings.md",
)
_FORMATS = ("text", "markdown", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", help="folders or files of results, run with --log_samples")
    parser.add_argument("--model", help="model to report on (default: all)")
    parser.add_argument(
        "--tasks", type=names, action="extend", default=[], help="tasks to use, joined by commas (default: all)"
    )
    parser.add_argument(
        "--presses", type=names, action="extend", default=[], help="presses to use, joined by commas (default: all)"
    )
    parser.add_argument(
        "--ratios", type=numbers, action="extend", default=[], help="ratios to use, joined by commas (default: all)"
    )
    parser.add_argument(
        "--size", type=float, default=0.02, help="least difference that matters (default: 0.02, two points)"
    )
    parser.add_argument(
        "--power", type=float, default=0.8, help="chance with which it should be found, for documents (default: 0.8)"
    )
    parser.add_argument("--by_press", action="store_true", help="print each press below the mean of all")
    parser.add_argument("--format", choices=_FORMATS, default="text", help="format of the report (default: text)")
    parser.add_argument("--output_path", type=Path, help="file to write the report to (default: print it)")


def run(args: argparse.Namespace) -> None:
    from fairkv_eval.files import write
    from fairkv_eval.findings.report import Choice, reports
    from fairkv_eval.findings.verdict import Goal

    chosen = Choice(args.model, args.tasks, args.presses, args.ratios)
    of_models = reports(args.results, chosen, Goal(args.size, args.power))
    if not args.output_path:
        _print(of_models, args)
        return
    with contextlib.redirect_stdout(io.StringIO()) as text:
        _print(of_models, args)
    write(args.output_path, text.getvalue())
    print(f"wrote {args.output_path}")


def _print(of_models: Sequence[ModelReport], args: argparse.Namespace) -> None:
    from fairkv_eval.findings.tables import as_json, as_markdown

    if args.format == "text":
        beside = _side_by_side(of_models) if len(of_models) > 1 else ()
        show(console(), [*beside, *(part for report in of_models for part in _parts(report, args.by_press))])
    elif args.format == "json":
        print(as_json(of_models), end="")
    else:
        print(as_markdown(of_models, args.by_press), end="")


def _side_by_side(of_models: Sequence[ModelReport]) -> Iterator[RenderableType]:
    """Each claim, and below it what each model shows."""
    from rich.text import Text

    from fairkv_eval.findings.across_models import across_models
    from fairkv_eval.findings.tables import notes

    statement = ""
    for claim in across_models(of_models):
        if claim.statement != statement:
            yield Text(f"{statement and chr(10)}{claim.statement}", style="bold")
            statement = claim.statement
        yield _indented(f"{claim.measured}{claim.measure and ': '}{claim.measure}")
        table = plain_table(show_header=False, padding=(0, 2, 0, 0))
        for report, shown in zip(of_models, claim.shown, strict=True):
            table.add_row(report.model, shown)
        yield _indented(table, 4)
    yield "\n" + "\n".join(notes(of_models)) + "\n"


def _parts(report: ModelReport, by_press: bool) -> Iterator[RenderableType]:
    from rich.text import Text

    from fairkv_eval.findings.tables import left_out, rule, size_in_words

    yield Text(report.model, style="bold")
    yield _summary(report.findings)
    for judged in report.findings:
        yield from _finding(judged, by_press)
    if report.sizes:
        heading = f"Documents that a claim of {size_in_words(report)} about two policies takes"
        yield Text(f"\n{heading}", style="bold")
        yield _sizes(report)
    yield f"\n{rule(report)}"
    yield from left_out(report)
    yield ""


def _summary(findings: Sequence[JudgedFinding]) -> Table:
    table = plain_table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for judged in findings:
        table.add_row(judged.verdict, judged.finding.statement)
    return table


def _finding(judged: JudgedFinding, by_press: bool) -> Iterator[RenderableType]:
    from rich.text import Text

    yield Text(f"\n{judged.finding.statement}: {judged.verdict}", style="bold")
    if judged.finding.reported:
        yield f"The paper: {judged.finding.reported}."
    for claim in judged.claims:
        yield f"\n{claim.claim.measured}: {claim.verdict}"
        if claim.rows:
            yield _table(claim, by_press)
            yield from _details(claim, by_press)
        else:
            yield _indented(f"It needs {claim.claim.needs}.")


def _details(claim: JudgedClaim, by_press: bool) -> Iterator[RenderableType]:
    """What the rows were made from, that of the deciding one or all."""
    from fairkv_eval.findings.tables import rows_of

    details = [row.contrast for row in rows_of(claim, by_press) if row.contrast.detail]
    for of in details if by_press else details[:1]:
        measure = of.measure if of.group == "all" else f"  {of.group}"
        yield _indented(f"{measure}: {of.detail}")


def _indented(part: RenderableType, blanks: int = 2) -> RenderableType:
    from rich.padding import Padding

    return Padding(part, (0, 0, 0, blanks))


def _table(claim: JudgedClaim, by_press: bool) -> Table:
    from fairkv_eval.findings.tables import rows_of
    from fairkv_eval.findings.verdict import numbers_of

    table = plain_table(padding=(0, 1, 0, 0))
    table.add_column("task and metric", overflow="fold")
    for header in ("estimate", "95 % interval", "p"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("needed", justify="right", no_wrap=True)
    task = ""
    for row in rows_of(claim, by_press):
        of = row.contrast
        if of.task != task:
            task = of.task
            table.add_row(f"{task}, n={of.n}")
        table.add_row(_indented(of.metric if of.group == "all" else f"  {of.group}"), *numbers_of(row))
    return table


def _sizes(report: ModelReport) -> Table:
    table = plain_table(padding=(0, 1, 0, 0))
    table.add_column("task and metric", overflow="fold")
    table.add_column("difference", no_wrap=True)
    for header in ("pairs", "deviation", "median", "most"):
        table.add_column(header, justify="right", no_wrap=True)
    for task in dict.fromkeys(of.task for of in report.sizes):
        table.add_row(task)
        for of in (of for of in report.sizes if of.task == task):
            numbers = (str(of.pairs), f"{of.deviation:.3f}", f"{of.median:,}", f"{of.most:,}")
            table.add_row(_indented(of.metric), of.comparison, *numbers)
    return table
