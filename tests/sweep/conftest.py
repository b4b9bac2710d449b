"""Fixtures of sweeps: tiny tasks on disk, and one sweep of them that ran to its end."""

from __future__ import annotations

from pathlib import Path

import pytest
import worker
from tiny_sweeps import tiny_sweep

from fairkv_eval.sweep import tasks
from fairkv_eval.sweep.run import run_sweep


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and three tiny tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    worker.write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def only_these_tasks():
    """Leave the harness's own tasks out of its index, which takes seconds per sweep."""
    with pytest.MonkeyPatch.context() as patch:
        manager = tasks.TaskManager
        patch.setattr(tasks, "TaskManager", lambda **kwargs: manager(**{**kwargs, "include_defaults": False}))
        yield


@pytest.fixture(scope="module")
def unbroken(task_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a tiny sweep that ran to its end without a break."""
    output = tmp_path_factory.mktemp("unbroken")
    run_sweep(tiny_sweep(task_folder, output))
    return output
