"""Sweeps of tiny tasks on a tiny model, and what they wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import worker

from fairkv_eval.sweep.config import sweep_of
from fairkv_eval.sweep.run import Sweep


def a_sweep(folder: Path, output: Path, **given) -> Sweep:
    return sweep_of(
        {
            "model_args": {"pretrained": str(folder / "model"), "dtype": "float32"},
            "presses": ["tova", {"press": "snapkv", "window": 8}],
            "ratios": [0, 0.5],
            "fair": [False, True],
            "tasks": worker.TASKS,
            "include_path": str(folder),
            "output_path": str(output),
            "batch_size": 3,
            "bootstrap_iters": 20,
            "device": "cpu",
            **given,
        }
    )


def numbers(output: Path) -> dict[tuple[str, str], tuple[dict, list]]:
    """Results and samples by task and policy."""
    found = {}
    for path in output.glob("model/*/*/results_*.json"):
        task, cell = path.parts[-3:-1]
        (samples,) = path.parent.glob("samples_*.jsonl")
        told = [json.loads(line) for line in samples.read_text().splitlines()]
        found[task, cell.rpartition("-")[0]] = json.loads(path.read_text()), told
    return found


def scores(output: Path) -> dict:
    return {key: (told["results"], samples) for key, (told, samples) in numbers(output).items()}


def assert_same(ours: dict, theirs: dict) -> None:
    """Metrics that are equal, figures but for rounding: a prefill may share more in one run than in another."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        same = theirs[name] if isinstance(value, str) else pytest.approx(theirs[name], rel=1e-4, abs=1e-6)
        assert value == same, name
