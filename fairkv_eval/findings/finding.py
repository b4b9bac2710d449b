"""A finding: what is claimed, and the contrasts that each part of the claim rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fairkv_eval.findings.contrast import Contrast

# When a claim holds: its contrast has the expected sign, or what is lost is less than the margin.
Rule = Literal["differs", "keeps"]


@dataclass(frozen=True)
class Claim:
    """One part of a finding.

    ``measured``: what its numbers are. ``needs``: the cells that it takes. ``rows``: contrasts over all presses, the
    one that decides first. ``by_press``: the same of each press.
    """

    measured: str
    needs: str
    rows: tuple[Contrast, ...]
    by_press: tuple[Contrast, ...] = ()
    rule: Rule = "differs"


@dataclass(frozen=True)
class Finding:
    """``reported``: what the paper reports; "" for a question of ours. The finding holds if all claims do."""

    name: str
    statement: str
    reported: str
    claims: tuple[Claim, ...]
