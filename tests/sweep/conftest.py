"""Fixtures of sweeps: tiny tasks on disk, and one sweep of them that ran through."""

from __future__ import annotations

from pathlib import Path

import pytest
import worker
from tiny_sweeps import a_sweep

from fairkv_eval.sweep import run as sweeps
from fairkv_eval.sweep.run import run_sweep


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    worker.write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def only_these_tasks(folder: Path):
    """Indexing the harness's own tasks takes seconds a sweep."""
    with pytest.MonkeyPatch.context() as patch:
        manager = sweeps.TaskManager
        patch.setattr(sweeps, "TaskManager", lambda **given: manager(**{**given, "include_defaults": False}))
        yield


@pytest.fixture(scope="module")
def unbroken(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("unbroken")
    run_sweep(a_sweep(folder, output))
    return output
