"""A finished sweep is recognised without torch and without a model, and only if nothing that it depends on changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import few_builtins
import pytest
import tiny_evaluation
import yaml
from tiny_sweeps import tiny_keys

from fairkv_eval.cli import main
from fairkv_eval.sweep.finished import FinishedSweep

QUICK = """
import sys
from fairkv_eval.cli import main
status = main(sys.argv[1:])
sys.exit(status or any(name in sys.modules for name in ("torch", "lm_eval", "transformers")))
"""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a finished sweep."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tasks").mkdir()
    tiny_evaluation.write_tasks(folder / "tasks")
    keys = tiny_keys(folder / "tasks", folder / "out", presses=["tova"], tasks=["pick", "some"])
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(keys))
    with pytest.MonkeyPatch.context() as patch:
        few_builtins.patch(patch)
        assert main(["sweep", str(path)]) == 0
    return path


def _keys(path: Path, **changed: Any) -> dict[str, Any]:
    return {**yaml.safe_load(path.read_text()), **changed}


def _count(path: Path, **changed: Any) -> int | None:
    cells = FinishedSweep(_keys(path, **changed)).cells()
    return None if cells is None else len(cells)


def test_the_second_command_imports_no_torch(sweep: Path) -> None:
    command = [sys.executable, "-c", QUICK, "sweep", str(sweep)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"6 cells in {sweep.parent / 'out'}\n"), done.stderr
    assert done.stderr == ""


def test_its_cells_are_those_of_the_run(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_builtins.patch(monkeypatch)
    from fairkv_eval.sweep.config import sweep_of
    from fairkv_eval.sweep.run import run_sweep

    assert FinishedSweep(_keys(sweep)).cells() == run_sweep(sweep_of(_keys(sweep)))


@pytest.mark.parametrize(
    "changed",
    [{"ratios": [0, 0.7]}, {"tasks": ["pick"]}, {"limit": 3}, {"seed": 1}, {"hf_hub_log_args": {"token": "x"}}],
)
def test_other_keys_are_another_sweep(sweep: Path, changed: dict[str, Any]) -> None:
    assert _count(sweep) == 6
    assert _count(sweep, **changed) is None


def _append(path: Path) -> Callable[[], None]:
    before, state = path.read_bytes(), path.stat()
    path.write_bytes(before + b"\n")

    def undo() -> None:
        path.write_bytes(before)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    return undo


@pytest.mark.parametrize(
    "pattern",
    [
        "tasks/docs.jsonl",
        "tasks/scoring.py",
        "tasks/pick.yaml",
        "tasks/model/model.safetensors",
        "tasks/model/tokenizer.json",
        "out/model/pick/*/results_*.json",
        "out/model/some/*/samples_*.jsonl",
    ],
)
def test_a_changed_file_is_seen(sweep: Path, pattern: str) -> None:
    undo = _append(sorted(sweep.parent.glob(pattern))[0])
    try:
        assert _count(sweep) is None
    finally:
        undo()
    assert _count(sweep) == 6


def test_a_new_file_beside_the_tasks_is_seen(sweep: Path) -> None:
    new = sweep.parent / "tasks" / "new.py"
    new.write_text("")
    assert _count(sweep) is None
    new.unlink()
    assert _count(sweep) == 6


@pytest.mark.parametrize("name", ["FAIRKV_DATA", "CUDA_VISIBLE_DEVICES", "WORLD_SIZE"])
def test_another_environment_is_seen(sweep: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    assert _count(sweep) is None


@pytest.mark.parametrize("text", ["", "[1]", '{"x": 1}'])
def test_a_damaged_store_stands_for_nothing(sweep: Path, text: str) -> None:
    stored = sweep.parent / "out" / ".sweep" / "finished.json"
    before = stored.read_text()
    stored.write_text(text or before[:40])
    assert _count(sweep) is None
    stored.write_text(before)


def test_documents_of_a_hub_are_not_stored(sweep: Path) -> None:
    keys = _keys(sweep, limit=2)
    folders = FinishedSweep(_keys(sweep)).cells()
    assert folders
    (result,) = folders[0].glob("results_*.json")
    before, state = result.read_text(), result.stat()
    values = json.loads(before)
    values["configs"]["pick"] |= {"dataset_path": "gsm8k", "dataset_kwargs": {}}
    text = json.dumps(values)
    result.write_text(text)
    manifest = folders[0] / ".files.json"
    sizes = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(sizes), result.name: len(text.encode())}))
    FinishedSweep(keys).store(folders)
    assert FinishedSweep(keys).cells() is None
    result.write_text(before)
    manifest.write_text(sizes)
    os.utime(result, ns=(state.st_atime_ns, state.st_mtime_ns))
    FinishedSweep(keys).store(folders)
    assert FinishedSweep(keys).cells() == folders, "and is stored with documents in files"
