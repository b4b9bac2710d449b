"""The page's scripts read keys that the leaderboard's entries have."""

from __future__ import annotations

import re
from dataclasses import fields
from importlib.resources import files

import pytest

from fairkv_eval.eviction.policy_arguments import ARGUMENTS
from fairkv_eval.leaderboard.aspects import OVERALL
from fairkv_eval.leaderboard.html import SCRIPTS
from fairkv_eval.leaderboard.rows import CorrectedDifference, MetricEntry, Row, TaskEntry, TaskSummary

SCRIPT = "\n".join(
    files("fairkv_eval.leaderboard").joinpath("page", name).read_text(encoding="utf-8") for name in SCRIPTS
)


def keys(kind: type) -> set[str]:
    return {f.name for f in fields(kind)}


ADDED = {"tr", "shown", "details", "searched"}  # by the page
KEYS = {
    r"\brow": keys(Row) - {"described"}
    | {"press", "base", "responses", *ADDED}
    | {argument.name for argument in ARGUMENTS},
    r"\bentry": keys(TaskEntry),
    r"\bmetric\??": keys(MetricEntry),
    r"(?:\bfigureOf|\.of)\([^()]*\)\??": keys(MetricEntry),
    r"\b(?:difference|vs_full\?|vs_plain\?)": keys(CorrectedDifference),
    r"\bDATA\.tasks\[[^\]]*(?:\[[^\]]*\])?[^\]]*\]": keys(TaskSummary),
    r"\bsummary": keys(TaskSummary),
    r"\bDATA": {"alpha", "tasks", "aspects", "amounts", "arguments", "rows", "prompts"},
    r"\baverages": {OVERALL},
}


@pytest.mark.parametrize("name", KEYS)
def test_scripts_read_only_keys_that_exist(name: str) -> None:
    read = set(re.findall(name + r"\.(\w+)", SCRIPT))
    assert read and read <= KEYS[name]
