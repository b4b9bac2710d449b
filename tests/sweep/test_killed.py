"""`fairkv sweep` as a command: killed again and again, stopped by Ctrl-C, and ended as one that was never touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import worker
import yaml
from tiny_sweeps import assert_same, numbers

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    worker.write_tasks(folder)
    return folder


def start(folder: Path, output: Path) -> subprocess.Popen:
    given = {
        "model_args": {"pretrained": str(folder / "model"), "dtype": "float32"},
        "presses": ["tova", "knorm"],
        "ratios": [0, 0.5],
        "tasks": ["say", "pick"],
        "gen_kwargs": {"max_gen_toks": 120},
        "include_path": str(folder),
        "output_path": str(output),
        "bootstrap_iters": 20,
        "device": "cpu",
        "fidelity": True,
    }
    path = folder / f"{output.name}.yaml"
    path.write_text(yaml.safe_dump(given))
    return subprocess.Popen(
        [sys.executable, "-m", "fairkv_eval.cli", "sweep", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )


def lines(output: Path) -> int:
    path = output / ".sweep" / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(run: subprocess.Popen, output: Path, more: int) -> None:
    """Until the journal has so many lines, or the run has ended."""
    while run.poll() is None and lines(output) < more:
        time.sleep(0.005)


def test_killed_at_random_moments_it_ends_as_an_unbroken_run(folder: Path, tmp_path: Path) -> None:
    whole = start(folder, tmp_path / "whole")
    assert (whole.communicate()[1], whole.returncode)[1] == 0
    draw, kills = random.Random(0), 0
    total = lines(tmp_path / "whole")
    while True:
        run = start(folder, tmp_path / "killed")
        before = lines(tmp_path / "killed")
        wait_for(run, tmp_path / "killed", before + draw.randrange(1, total // 3) if kills < 3 else 10**9)
        time.sleep(draw.random() / 50)
        if run.poll() is not None:
            run.communicate()
            break
        run.kill()
        run.communicate()
        kills += 1
        assert lines(tmp_path / "killed") > before
    assert run.returncode == 0 and kills == 3
    one, other = numbers(tmp_path / "whole"), numbers(tmp_path / "killed")
    assert one.keys() == other.keys() and len(one) == 6
    for key, (results, samples) in one.items():
        again, resampled = other[key]
        assert_same(results["results"][key[0]], again["results"][key[0]])
        for sample, other_sample in zip(samples, resampled, strict=True):
            assert sample["doc_hash"] == other_sample["doc_hash"]
            assert key[0] == "pick" or sample["resps"] == other_sample["resps"]
            # Nearly nothing, where distributions of float32 are compared with others that are all but the same.
            assert [sample[m] for m in sample["metrics"]] == pytest.approx(
                [other_sample[m] for m in sample["metrics"]], rel=1e-4, abs=1e-6
            )
    # No answer twice: what was written before a kill was not asked for again.
    written = (tmp_path / "killed" / ".sweep" / "journal.jsonl").read_text().splitlines()
    answers = [tuple(json.loads(line)[name] for name in ("cell", "request", "repeat")) for line in written]
    assert len(answers) <= total + 2 * 3


def test_ctrl_c_is_one_line_and_status_130(folder: Path, tmp_path: Path) -> None:
    run = start(folder, tmp_path / "stopped")
    wait_for(run, tmp_path / "stopped", 3)
    run.send_signal(signal.SIGINT)
    errors = run.communicate()[1]
    assert run.returncode == 130
    assert errors.rstrip().splitlines()[-1] == "fairkv: stopped; the same command goes on where this one was"
    assert "Traceback" not in errors
