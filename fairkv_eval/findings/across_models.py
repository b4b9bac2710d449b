"""What each model shows of every claim, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairkv_eval.findings.report import ModelReport, TaskOf
from fairkv_eval.findings.verdict import JudgedClaim, JudgedRow, numbers_of

NOT_RUN = "not run"
EACH = "Each model's number is over the documents, presses and ratios that were run with it."


@dataclass(frozen=True)
class ClaimAcross:
    """A claim under several models. ``statement`` and ``reported``: those of its finding. ``measure``: what decides
    it, "" if no model ran it. ``shown``: of each model the verdict with estimate, interval, corrected p, documents, and
    those needed if it cannot be told."""

    statement: str
    reported: str
    measured: str
    measure: str
    shown: tuple[str, ...]


def across_models(reports: Sequence[ModelReport]) -> list[ClaimAcross]:
    """Each claim's deciding row of every model, in the order of the findings."""
    claims = []
    for findings in zip(*(report.findings for report in reports), strict=True):
        first = findings[0].finding
        for measured in dict.fromkeys(claim.claim.measured for judged in findings for claim in judged.claims):
            rows = [_deciding(judged.claims, measured) for judged in findings]
            measure = next((row.contrast.measure for row in rows if row), "")
            shown = tuple(_shown(row, measure) for row in rows)
            claims.append(ClaimAcross(first.statement, first.reported, measured, measure, shown))
    return claims


def _deciding(claims: Sequence[JudgedClaim], measured: str) -> JudgedRow | None:
    return next((claim.rows[0] for claim in claims if claim.claim.measured == measured and claim.rows), None)


def _shown(row: JudgedRow | None, measure: str) -> str:
    """A model's row; its measure is named if it is another one than the first model's."""
    if row is None:
        return NOT_RUN
    estimate, interval, p, verdict, needed = numbers_of(row)
    other = "" if row.contrast.measure == measure else f" ({row.contrast.measure})"
    documents = "" if needed == "-" else f", needed {needed}"
    return f"{verdict}: {estimate} {interval}, p {p}, n={row.contrast.n}{documents}{other}"


def unlike_tasks(reports: Sequence[ModelReport]) -> list[str]:
    """A sentence for each task that is not the same for all models that ran it: of another version or on other
    documents."""
    by_task: dict[str, dict[str, TaskOf]] = {}
    for report in reports:
        for task, of in report.tasks.items():
            by_task.setdefault(task, {})[report.model] = of
    return [_unlike(task, of_models) for task, of_models in by_task.items() if len(set(of_models.values())) > 1]


def _unlike(task: str, of_models: Mapping[str, TaskOf]) -> str:
    each = [f"version {of.version}, {len(of.documents)} documents for {model}" for model, of in of_models.items()]
    same = len({(of.version, len(of.documents)) for of in of_models.values()}) == 1
    return f"{task} is not the same: {'; '.join(each)}{'; these are others' if same else ''}"
