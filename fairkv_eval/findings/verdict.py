"""What a contrast says of a claim, and how many documents would tell. docs/reading_results.md states the rule."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fairkv_eval.analysis.paired import holm
from fairkv_eval.findings.contrast import Contrast
from fairkv_eval.findings.finding import Claim, Finding, Rule

Verdict = Literal["appears", "opposite", "not seen", "cannot be told"]

ALPHA = 0.05
# A finding with several claims has the first of these that one of its claims has.
WEAKEST_FIRST: tuple[Verdict, ...] = ("opposite", "not seen", "cannot be told", "appears")

_FEW = 10  # documents that differ: an interval of fewer says little
_RULE_OF_THREE = 3  # what n documents do not show once may be in 3/n of all (95 %)


@dataclass(frozen=True)
class Goal:
    """The least difference that matters (0.02 is two points), and the chance with which it should be found."""

    size: float = 0.02
    power: float = 0.8


@dataclass(frozen=True)
class JudgedRow:
    """``corrected``: the p-value, corrected (Holm) for a claim's measures or, of a press, for the presses under its
    measure. ``needed``: documents that would tell a difference of the goal's size; None for a metric without points,
    and if there is nothing to lose."""

    contrast: Contrast
    corrected: float
    verdict: Verdict
    needed: int | None


@dataclass(frozen=True)
class JudgedClaim:
    claim: Claim
    verdict: Verdict
    rows: tuple[JudgedRow, ...]
    by_press: tuple[JudgedRow, ...]


@dataclass(frozen=True)
class JudgedFinding:
    finding: Finding
    verdict: Verdict
    claims: tuple[JudgedClaim, ...]


def numbers_of(row: JudgedRow) -> tuple[str, str, str, str, str]:
    """Estimate, interval, corrected p, verdict, and the documents needed if it cannot be told."""
    of = row.contrast
    interval = f"[{of.low:+.3f}, {of.high:+.3f}]" if math.isfinite(of.low) else "-"
    needed = f"{row.needed:,}" if row.verdict == "cannot be told" and row.needed else "-"
    p = f"{row.corrected:.2g}" if row.corrected >= 0.01 else f"{row.corrected:.1g}"
    return f"{of.estimate:+.3f}", interval, p, row.verdict, needed


def judged(finding: Finding, goal: Goal) -> JudgedFinding:
    """The finding with a verdict of each row, of each claim (its first row's) and of all (the weakest)."""
    claims = tuple(_judged_claim(claim, goal) for claim in finding.claims)
    weakest = min((claim.verdict for claim in claims), key=WEAKEST_FIRST.index)
    return JudgedFinding(finding, weakest, claims)


def _judged_claim(claim: Claim, goal: Goal) -> JudgedClaim:
    rows = _judged_rows(claim.rows, claim.rule, goal)
    by_measure: dict[tuple[str, str], list[Contrast]] = {}
    for contrast in claim.by_press:
        by_measure.setdefault((contrast.task, contrast.metric), []).append(contrast)
    by_press = [row for family in by_measure.values() for row in _judged_rows(family, claim.rule, goal)]
    return JudgedClaim(claim, rows[0].verdict if rows else "cannot be told", rows, tuple(by_press))


def _judged_rows(contrasts: Sequence[Contrast], rule: Rule, goal: Goal) -> tuple[JudgedRow, ...]:
    corrected = holm([contrast.p for contrast in contrasts])
    return tuple(_judged_row(contrast, p, rule, goal) for contrast, p in zip(contrasts, corrected, strict=True))


def _judged_row(contrast: Contrast, corrected: float, rule: Rule, goal: Goal) -> JudgedRow:
    no_number_would = rule == "keeps" and contrast.stake <= goal.size
    needed = None if no_number_would else documents_needed(contrast, goal)
    return JudgedRow(contrast, corrected, verdict(contrast, corrected, rule, goal), needed)


def verdict(contrast: Contrast, corrected: float, rule: Rule, goal: Goal) -> Verdict:
    """What a contrast says of its claim, given its corrected p-value."""
    return _kept(contrast, corrected, goal) if rule == "keeps" else _differs(contrast, corrected, goal)


def _differs(contrast: Contrast, corrected: float, goal: Goal) -> Verdict:
    if corrected < ALPHA and not contrast.low <= 0 <= contrast.high:
        return "opposite" if contrast.estimate * contrast.expected < 0 else "appears"
    within = -goal.size < contrast.low and contrast.high < goal.size
    return "not seen" if within and _reliable(contrast, goal) else "cannot be told"


def _kept(contrast: Contrast, corrected: float, goal: Goal) -> Verdict:
    """Whether what the expected sign calls better is lost by less than the margin, or by more, for sure. A loss needs
    the test as well: the interval of a few documents may lie anywhere."""
    low, high = sorted(contrast.expected * end for end in (contrast.low, contrast.high))
    if high < -goal.size and corrected < ALPHA:
        return "opposite"
    kept = low > -goal.size and contrast.stake > goal.size
    return "appears" if kept and _reliable(contrast, goal) else "cannot be told"


def _reliable(contrast: Contrast, goal: Goal) -> bool:
    """Whether an interval may exclude a difference: never without points, and with few documents that differ only if
    there are enough by the rule of three."""
    enough = contrast.differing >= _FEW or contrast.n >= _RULE_OF_THREE / goal.size
    return contrast.points and enough and math.isfinite(contrast.low)


def documents_needed(contrast: Contrast, goal: Goal) -> int | None:
    """The documents with which a test at 5 % would find a true difference of the goal's size with its power; None for
    a metric without points, and for a single document."""
    if not contrast.points or not math.isfinite(contrast.variance):
        return None
    # Without any difference so far: as if one of n documents differed wholly.
    variance = contrast.variance or 1 / contrast.n
    needed = variance * noncentrality(contrast.degrees, goal.power) / (contrast.degrees * goal.size**2)
    least = _RULE_OF_THREE / goal.size if contrast.differing < _FEW else 2
    return math.ceil(max(needed, least) - 1e-9)


@lru_cache(maxsize=64)
def noncentrality(degrees: int, power: float) -> float:
    """That of the χ² test at 5 % which rejects with this power; with one degree, (1.96 + 0.84)² for 80 %."""
    from scipy.optimize import brentq
    from scipy.stats import chi2, ncx2

    edge = chi2.isf(ALPHA, degrees)
    return float(brentq(lambda lam: ncx2.sf(edge, degrees, lam) - power, 1e-6, 1e4))
