"""A policy is written down once: one more field of `PolicyArguments` is an argument everywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import another_argument
import pytest

import fairkv_eval

TOP = Path(fairkv_eval.__file__).parents[1]
FIELD = '    sharpness: float = argument(1.0, fraction, "how a test tells policies apart")\n'


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where the argument shows up in a copy of the package that has one more line."""
    top = tmp_path_factory.mktemp("package")
    shutil.copytree(TOP / "fairkv_eval", top / "fairkv_eval", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("presses", "tasks"):
        (top / "fairkv_eval" / folder).symlink_to(TOP / folder)  # as in an installed package
    file = top / "fairkv_eval" / "eviction" / "policy_arguments.py"
    before, after = file.read_text().split("    decode_budget: int | None = argument(")
    file.write_text(f"{before}{FIELD}    decode_budget: int | None = argument({after}")
    script = Path(another_argument.__file__)
    path = os.pathsep.join([str(top), str(script.parent)])
    run = subprocess.run(
        [sys.executable, str(script), str(top / "results")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(json.loads(run.stdout.splitlines()[-1]))


def test_the_model_takes_it_and_its_result_says_it(shown: dict[str, Any]) -> None:
    assert shown["model"] == {
        "signature": 1.0,
        "policy": 0.25,
        "result": 0.25,
        "label": "tova ratio=0.5 sharpness=0.25",
        "folder": "tova_ratio=0.5_sharpness=0.25",
        "error": "sharpness=2 is not allowed; it takes a number from 0 to 1",
    }


def test_a_sweep_takes_it_with_a_press(shown: dict[str, Any]) -> None:
    assert shown["sweep"]["policies"] == [0.25, 0.5]
    assert "sharpness=0.25" in shown["sweep"]["of_model"] and "goes under presses" in shown["sweep"]["of_model"]


def test_a_result_is_read_back_with_it(shown: dict[str, Any]) -> None:
    result = shown["result"]
    assert (result["record"], result["row"], result["csv"]) == (0.25, 0.25, "0.25")
    assert result["label"] == "tova ratio=0.5 sharpness=0.25"
    assert result["figure"] == "tova sharpness=0.25"
    assert result["command"] == "pretrained=someone/small-model,press=tova,ratio=0.5,sharpness=0.25"
