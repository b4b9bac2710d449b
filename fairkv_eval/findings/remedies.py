"""Findings 5 and 6: whitelisting and fairness lower leakage, at little loss of following."""

from __future__ import annotations

from collections.abc import Callable

from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import following, leakage
from fairkv_eval.findings.twins import FAIR, WHITELISTED, Pairs, Sides, fair_pairs, paired_claim, whitelist_pairs


def whitelisting(model: ModelCells) -> Finding:
    return _remedy(
        model,
        "whitelisting",
        "Whitelisting the defense lowers leakage at little loss of following",
        "it lowers leakage with little loss of following",
        WHITELISTED,
        "a press with and without keep=, plain",
        whitelist_pairs,
    )


def fairness(model: ModelCells) -> Finding:
    return _remedy(
        model,
        "fairness",
        "Fair eviction lowers leakage at little loss of following",
        "it lowers leakage with little loss of following",
        FAIR,
        "a press with fair=1 and with fair=0, at the same ratio",
        fair_pairs,
    )


def _remedy(
    model: ModelCells,
    name: str,
    statement: str,
    reported: str,
    sides: Sides,
    cells: str,
    pairs_of: Callable[[TaskCells], Pairs],
) -> Finding:
    leak_needs, follow_needs = f"{cells}, on raccoon_plain or raccoon_preference", f"{cells}, on sys_ifeval_defended"
    leaks = paired_claim("leakage", sides, leak_needs, leakage(model), pairs_of, 1)
    follows = paired_claim("following", sides, follow_needs, following(model), pairs_of, 1, "keeps")
    return Finding(name, statement, reported, (leaks, follows))
