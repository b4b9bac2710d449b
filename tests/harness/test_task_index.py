"""A stored index is the one that the harness builds, as long as no file of its folder changes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from lm_eval.tasks.manager import TaskIndex

from fairkv_eval.harness.task_index import KIND, build_index

PLAIN = TaskIndex.__mro__[-2]  # without this package's part
READER = sys.modules[PLAIN.__module__]


@pytest.fixture
def builtin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the harness's own: a task, a group, tags, a file that another includes, and code."""
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "tasks"
    (root / "inner").mkdir(parents=True)
    (root / "base_yaml").write_text("output_type: generate_until\ndoc_to_choice: ['yes', 'no']\n")
    (root / "one.yaml").write_text("task: one\ntag: [easy, short]\ninclude: base_yaml\nprocess_docs: !function u.f\n")
    (root / "inner" / "group.yaml").write_text("group: both\ntask: [one, {task: two}]\n")
    (root / "broken.yaml").write_text("task: [")
    return root


def _stored(builtin: Path) -> list[Path]:
    return list((builtin.parent / "cache" / KIND).glob("*.json"))


def test_a_stored_index_is_the_harness_s_own(builtin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = PLAIN.build([builtin])
    assert {"one", "both", "easy", "short"} == expected.keys()
    assert build_index(PLAIN, [builtin], builtin) == expected
    (stored,) = _stored(builtin)
    monkeypatch.setattr(READER, "load_yaml", pytest.fail)
    assert build_index(PLAIN, [builtin], builtin) == expected
    stored.write_text(stored.read_text()[:-9])
    monkeypatch.undo()
    monkeypatch.setenv("FAIRKV_CACHE", str(builtin.parent / "cache"))
    assert build_index(PLAIN, [builtin], builtin) == expected, "a truncated one is made anew"


@pytest.mark.parametrize("change", ["include", "task", "new", "gone"])
def test_a_change_of_a_file_is_seen(builtin: Path, change: str) -> None:
    before = build_index(PLAIN, [builtin], builtin)
    if change == "include":
        (builtin / "base_yaml").write_text("output_type: multiple_choice\n")
    elif change == "task":
        (builtin / "one.yaml").write_text("task: three\n")
    elif change == "new":
        (builtin / "inner" / "new.yaml").write_text("task: new\n")
    else:
        (builtin / "one.yaml").unlink()
    after = build_index(PLAIN, [builtin], builtin)
    assert after == PLAIN.build([builtin]) != before
    assert len(_stored(builtin)) == 1


def test_later_folders_win_and_the_harness_says_so(
    builtin: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.yaml").write_text("task: one\n")
    paths = [builtin, tmp_path / "mine"]
    expected = PLAIN.build(paths)
    said = caplog.messages.copy()
    caplog.clear()
    assert build_index(PLAIN, paths, builtin) == expected
    assert caplog.messages == said and len(said) == 1
    assert build_index(PLAIN, paths[1:], builtin).keys() == {"one"}


def test_values_that_json_has_not_are_not_stored(builtin: Path) -> None:
    (builtin / "dates.yaml").write_text("task: dates\ndoc_to_choice: {1: a, 2: b}\n")
    assert build_index(PLAIN, [builtin], builtin) == PLAIN.build([builtin])
    assert not _stored(builtin)


def test_a_cache_that_cannot_be_written(builtin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        assert build_index(PLAIN, [builtin], builtin) == PLAIN.build([builtin])
    assert not [record for record in caplog.records if record.name.startswith("fairkv_eval")]
