"""The leaderboards in results/ are those that the results beside them give."""

from __future__ import annotations

import json
from typing import Any

import pytest
from published_baseline import RESULTS

from fairkv_eval.leaderboard.board import build, dumped
from fairkv_eval.results.reader import read

FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/leaderboard.json"))


@pytest.mark.long
@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_board_is_rebuilt_to_the_last_digit(name: str) -> None:
    rebuilt = json.loads(dumped(build(read(RESULTS / name), RESULTS / name)))
    check(json.loads((RESULTS / name / "leaderboard.json").read_text(encoding="utf-8")), rebuilt, name)


def check(published: Any, rebuilt: Any, where: str) -> None:
    """Nothing published is lost or another; a later version may say more."""
    if isinstance(published, dict):
        for key, value in published.items():
            check(value, rebuilt[key], f"{where} {key}")
    elif isinstance(published, list):
        assert len(published) == len(rebuilt), where
        for i, value in enumerate(published):
            check(value, rebuilt[i], f"{where} {i}")
    else:
        assert published == rebuilt, where


def test_results_stay_small() -> None:
    files = [*RESULTS.rglob("*.parquet"), *RESULTS.rglob("cells.json")]
    assert files and sum(path.stat().st_size for path in files) < 10_000_000
