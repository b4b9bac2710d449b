"""Fixtures of sweeps: tiny tasks on disk, and one sweep of them that ran to its end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny_evaluation
from tiny_sweeps import tiny_sweep

from fairkv_eval.sweep import tasks
from fairkv_eval.sweep.run import run_sweep


@contextmanager
def without_builtins() -> Iterator[None]:
    """Leave the harness's own tasks out of its index, which takes seconds per sweep."""
    manager = tasks.TaskManager
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TaskManager", lambda **kwargs: manager(**{**kwargs, "include_defaults": False}))
        yield


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model and three tiny tasks."""
    folder = tmp_path_factory.mktemp("tasks")
    tiny_evaluation.write_tasks(folder)
    return folder


@pytest.fixture
def only_these_tasks() -> Iterator[None]:
    """During one test, as `without_builtins`."""
    with without_builtins():
        yield


@pytest.fixture(scope="session")
def unbroken(task_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a tiny sweep that ran to its end without a break. Copy it to write into it."""
    output = tmp_path_factory.mktemp("unbroken")
    with without_builtins():
        run_sweep(tiny_sweep(task_folder, output))
    return output
