"""The leaderboards in results/ are those that the results beside them give."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest
from published_baseline import RESULTS

from fairkv_eval.leaderboard.board import build, dumped
from fairkv_eval.results.reader import read

BOARDS = sorted(RESULTS.glob("*/leaderboard.json*"))  # an older one is compressed


@pytest.mark.long
@pytest.mark.parametrize("path", BOARDS, ids=[path.parent.name for path in BOARDS])
def test_a_published_board_is_rebuilt(path: Path) -> None:
    stored = path.read_bytes()
    published = json.loads(gzip.decompress(stored) if path.suffix == ".gz" else stored)
    averaged = {task for aspect in published["aspects"].values() for task in aspect["tasks"]}
    average = sorted(averaged) if "averages are over" in published["rule"] else ()
    rebuilt = json.loads(dumped(build(read(path.parent), path.parent, average)))
    check(published, rebuilt, path.parent.name)


def check(published: Any, rebuilt: Any, where: str) -> None:
    """Nothing published is lost or another; a later version may say more."""
    if isinstance(published, dict):
        for key, value in published.items():
            check(value, rebuilt[key], f"{where} {key}")
    elif isinstance(published, list):
        assert len(published) == len(rebuilt), where
        for i, value in enumerate(published):
            check(value, rebuilt[i], f"{where} {i}")
    elif isinstance(published, float) and isinstance(rebuilt, float):
        # Matrix products round the last bits otherwise with another number of threads.
        assert math.isclose(published, rebuilt, rel_tol=1e-12, abs_tol=1e-15), where
    else:
        assert published == rebuilt, where


def test_results_stay_small() -> None:
    sizes = [path.stat().st_size for path in RESULTS.rglob("*") if path.is_file()]
    assert sizes and sum(sizes) < 10_000_000
