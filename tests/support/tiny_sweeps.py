"""Sweeps of tiny tasks on a tiny model, and what they wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_evaluation

from fairkv_eval.sweep.config import Sweep, sweep_of


def tiny_keys(task_folder: Path, output: Path, **keys: Any) -> dict[str, Any]:
    """The keys of a sweep over the tasks that `tiny_evaluation.write_tasks` wrote: five policies, three tasks.
    ``keys`` add to these or replace them."""
    return {
        "model_args": {"pretrained": str(task_folder / "model"), "dtype": "float32"},
        "presses": ["tova", {"press": "snapkv", "window": 8}],
        "ratios": [0, 0.5],
        "fair": [False, True],
        "tasks": tiny_evaluation.TASKS,
        "include_path": str(task_folder),
        "output_path": str(output),
        "batch_size": 3,
        "bootstrap_iters": 20,
        "device": "cpu",
        **keys,
    }


def tiny_sweep(task_folder: Path, output: Path, **keys: Any) -> Sweep:
    """The sweep of `tiny_keys`."""
    return sweep_of(tiny_keys(task_folder, output, **keys))


def cell_files(output: Path) -> dict[tuple[str, str], tuple[dict, list]]:
    """The result JSON and the samples of every finished cell, by task and policy (``tova_ratio=0.5``)."""
    files = {}
    for path in output.glob("model/*/*/results_*.json"):
        task, cell = path.parts[-3:-1]
        (samples,) = path.parent.glob("samples_*.jsonl")
        lines = samples.read_text().splitlines()
        files[task, cell.rpartition("-")[0]] = json.loads(path.read_text()), [json.loads(line) for line in lines]
    return files


def cell_metrics(output: Path) -> dict[tuple[str, str], tuple[dict, list]]:
    """The metrics and the samples of every finished cell: the part of its files that two runs have in common."""
    return {key: (result["results"], samples) for key, (result, samples) in cell_files(output).items()}


def assert_same(ours: dict, theirs: dict) -> None:
    """Metrics are equal, figures up to rounding: a prefill may share more in one run than in another."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = theirs[name] if isinstance(value, str) else pytest.approx(theirs[name], rel=1e-4, abs=1e-6)
        assert value == same, name
