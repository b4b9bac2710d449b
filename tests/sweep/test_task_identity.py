"""A task's identity: an edit of its YAML or code that can change a figure makes another, housekeeping does not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny_evaluation
from lm_eval.tasks import TaskManager

from fairkv_eval.sweep.task_identity import task_identity

CODE = """
import helper_of_a_task
def length(doc, results):
    return {"length": helper_of_a_task.length(results[0]) + doc["id"], "keep_rate": 1.0}
def by_document(doc, results):
    return {}
"""
HELPER = "def length(text):\n    return len(text)\n"


def identity(folder: Path, code: str = CODE, helper: str = HELPER, yaml: tuple[str, str] = ("", "")) -> dict:
    sys.modules.pop("helper_of_a_task", None)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "say.yaml").exists():
        tiny_evaluation.write_tasks(folder)
    for name, text in {"scoring": code, "helper_of_a_task": helper}.items():
        (folder / f"{name}.py").write_text(text)
    path = folder / "say.yaml"
    text = path.read_text()
    path.write_text(text.replace(*yaml) if yaml[0] else text)
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(["say"])["tasks"]
    return task_identity(tasks["say"])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path / "a")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path / "a"


def test_housekeeping_changes_nothing(folder: Path) -> None:
    first = identity(folder)
    documented = CODE.replace(
        'results):\n    return {"le', 'results: list) -> dict:\n    """Words."""\n    # why\n    return {"le'
    )
    assert documented != CODE and identity(folder, documented) == first
    assert identity(folder, helper=HELPER.replace("(text):", "(text: str) -> int:")) == first


@pytest.mark.parametrize(
    "edit",
    [
        {"code": CODE.replace("+ doc", "- doc")},
        {"helper": HELPER.replace("len(text)", "len(text) + 1")},
        {"yaml": ("temperature: 1.5", "temperature: 1.6")},
        {"yaml": ("median", "mean")},
    ],
)
def test_an_edit_that_can_change_a_figure(edit: dict, folder: Path) -> None:
    assert identity(folder) != identity(folder, **edit)


def test_no_path_of_the_machine(folder: Path) -> None:
    told = dict(identity(folder)["config"])
    told.pop("dataset_kwargs")  # where the documents are, as the YAML says it
    assert str(folder) not in str(told)
