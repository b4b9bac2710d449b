"""Every task of the package is explained on the page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fairkv_eval.leaderboard.explanations import of_metric, of_task

FOLDER = Path(__file__).parents[2] / "tasks"


def our_tasks() -> list[str]:
    names = []
    for path in sorted(FOLDER.rglob("*.yaml")):
        line = next((line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("task: ")), None)
        if line and isinstance(name := yaml.safe_load(line)["task"], str):
            names.append(name)
    return names


def test_every_task_of_the_package_is_explained() -> None:
    assert len(our_tasks()) > 20
    assert [name for name in our_tasks() if not of_task(name)] == []


def test_another_task_is_not() -> None:
    assert of_task("boolq") == "" and of_metric("exact_match") == ""


@pytest.mark.parametrize(
    ("metric", "words"),
    [("acc", "accuracy"), ("acc,strict", "accuracy"), ("leak@0.8_defense", "80"), ("keep_rate_defense", "segment")],
)
def test_metrics(metric: str, words: str) -> None:
    assert words in of_metric(metric)
