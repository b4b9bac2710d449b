"""`fairkv sweep` as a command, killed again and again or stopped by Ctrl-C: it resumes and ends as an unbroken one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import few_builtins
import pytest
import yaml
from tiny_sweeps import assert_same, cell_files, tiny_keys

from fairkv_eval.sweep.config import sweep_of
from fairkv_eval.sweep.run import run_sweep


def keys_of(task_folder: Path, output: Path) -> dict[str, Any]:
    """Of a sweep with long answers, so that a kill comes amid them."""
    changes = {"presses": ["tova", "knorm"], "fair": False, "tasks": ["say", "pick"], "batch_size": 1}
    return tiny_keys(task_folder, output, **changes, gen_kwargs={"max_gen_toks": 30}, fidelity=True)


def start(task_folder: Path, output: Path) -> subprocess.Popen:
    """Start the command with this output folder; started again, it resumes."""
    path = task_folder / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(keys_of(task_folder, output)))
    start_up = os.pathsep.join([str(few_builtins.write(task_folder)), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "fairkv_eval.cli", "sweep", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": start_up},
    )


def lines(output: Path) -> int:
    """Complete lines of the journal."""
    path = output / ".sweep" / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(run: subprocess.Popen, output: Path, count: int) -> None:
    """Wait until the journal has so many lines, or the run has ended."""
    while run.poll() is None and lines(output) < count:
        time.sleep(0.005)


def answered(output: Path) -> list[tuple[str, int, int]]:
    """Cell, request and repeat of every answer in the journal; lines that add fidelity to one are left out."""
    path = output / ".sweep" / "journal.jsonl"
    entries = [entry for entry in map(json.loads, path.read_text().splitlines()) if "context" in entry]
    return sorted((entry["cell"], entry["request"], entry["repeat"]) for entry in entries)


@pytest.mark.parametrize("kills", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.usefixtures("only_these_tasks")
def test_killed_at_random_moments_it_ends_as_an_unbroken_run(task_folder: Path, tmp_path: Path, kills: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_sweep(sweep_of(keys_of(task_folder, whole)))
    draw, total = random.Random(0), lines(whole)
    for _ in range(kills):
        before = lines(killed)
        run = start(task_folder, killed)
        wait_for(run, killed, before + draw.randrange(1, total // 3))
        time.sleep(draw.random() / 50)
        run.kill()
        run.communicate()
        assert run.returncode == -signal.SIGKILL and lines(killed) > before
    last = start(task_folder, killed)
    assert (last.communicate()[1], last.returncode)[1] == 0
    assert_same_files(cell_files(whole), cell_files(killed))
    # No answer twice: what was written before a kill was not computed again.
    assert answered(killed) == answered(whole)


def assert_same_files(whole: dict, killed: dict) -> None:
    assert whole.keys() == killed.keys() and len(whole) == 6
    for (task, policy), (results, samples) in whole.items():
        again, resampled = killed[task, policy]
        assert_same(results["results"][task], again["results"][task])
        for sample, other_sample in zip(samples, resampled, strict=True):
            assert sample["doc_hash"] == other_sample["doc_hash"]
            assert task == "pick" or sample["resps"] == other_sample["resps"]
            # Nearly equal: float32 distributions are compared with others that are all but the same.
            assert [sample[m] for m in sample["metrics"]] == pytest.approx(
                [other_sample[m] for m in sample["metrics"]], rel=1e-4, abs=1e-6
            )


def test_ctrl_c_is_one_line_and_status_130(task_folder: Path, tmp_path: Path) -> None:
    run = start(task_folder, tmp_path / "stopped")
    wait_for(run, tmp_path / "stopped", 3)
    run.send_signal(signal.SIGINT)
    errors = run.communicate()[1]
    assert run.returncode == 130
    assert errors.rstrip().splitlines()[-1] == "fairkv: stopped; the same command resumes here"
    assert "Traceback" not in errors
