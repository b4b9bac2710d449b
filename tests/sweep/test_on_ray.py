"""A sweep on Ray gives the cells of a sweep here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import worker
from tiny_sweeps import a_sweep, assert_same, scores

from fairkv_eval.errors import UsageError
from fairkv_eval.sweep import run as sweeps
from fairkv_eval.sweep.on_ray import Gathered, Part, _run_part, cells_done, divisions, line, parts, run_on_ray
from fairkv_eval.sweep.run import run_sweep

KEYS = {
    "presses": ["tova", {"press": "snapkv", "window": 8}],
    "ratios": [0, 0.5],
    "fair": False,
    "tasks": ["pick", "say"],
    "batch_size": 3,
    "bootstrap_iters": 20,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    worker.write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def workers():
    ray = pytest.importorskip("ray", reason="needs pip install ray")
    # Ray's workers would give way to everything else on the machine.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_parts_are_all_cells_once_and_enough_for_every_place(folder: Path, tmp_path: Path) -> None:
    sweep = a_sweep(folder, tmp_path)
    assert list(parts(sweep, ["a", "b"], 2)) == [Part(0, "a", (0, 1, 2, 3, 4)), Part(0, "b", (0, 1, 2, 3, 4))]
    assert list(parts(sweep, ["a"], 2)) == [Part(0, "a", (0, 2, 4)), Part(0, "a", (1, 3))]
    assert list(parts(a_sweep(folder, tmp_path, fidelity=True), ["a"], 2)) == [Part(0, "a", (0, 1, 2, 3, 4))]
    many = list(parts(sweep, ["a", "b"], 100))
    assert sorted((part.task, *part.policies) for part in many) == [(t, p) for t in "ab" for p in range(5)]
    assert len({part.journal for part in many}) == len(many)


@pytest.mark.parametrize(
    ("pairs", "places", "each"),
    [(1, 1, 1), (1, 2, 2), (2, 2, 1), (5, 2, 2), (3, 2, 2), (5, 8, 5), (40, 8, 1), (7, 8, 4)],
)
def test_no_place_waits_long_for_the_last_part(pairs: int, places: int, each: int) -> None:
    assert divisions(pairs, places) == each


def test_divided_over_parts_it_is_the_same_sweep(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = sweeps.TaskManager
    monkeypatch.setattr(sweeps, "TaskManager", lambda **given: manager(**{**given, "include_defaults": False}))
    given = {**KEYS, "tasks": ["say"], "presses": "tova"}
    run_sweep(a_sweep(folder, tmp_path / "here", **given))
    model = {"pretrained": str(folder / "model"), "dtype": "float32"}
    keys = {**given, "model_args": model, "include_path": str(folder), "output_path": str(tmp_path / "there")}
    divided = list(parts(a_sweep(folder, tmp_path / "there", **given), ["say"], 2))
    monkeypatch.setenv("DISABLE_MULTIPROC", "")  # so that it is gone after this test
    monkeypatch.delenv("DISABLE_MULTIPROC")
    gathered = Gathered()
    actor = SimpleNamespace(tell=SimpleNamespace(remote=gathered.tell))
    assert len([folder for part in divided for folder in _run_part(keys, part, actor)]) == len(divided) == 2
    assert os.environ["DISABLE_MULTIPROC"] == "1"  # a fork beside Ray's threads hangs
    assert scores(tmp_path / "here") == scores(tmp_path / "there")
    # Who waits can tell how far each part is.
    cells = {part.journal: len(part.policies) for part in divided}
    assert gathered.stands().keys() == cells.keys()
    assert cells_done(gathered.stands(), cells, bars=1) == sum(cells.values())
    assert "say 14/14 (1/1 cells, 14/14 prompts, " in line(gathered.stands(), cells)
    assert len(list((tmp_path / "there" / ".sweep").glob("journal-*.jsonl"))) == 2


@pytest.mark.long
def test_two_workers_give_the_cells_of_one_process(
    folder: Path, tmp_path: Path, workers, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # the sweep here would fork beside Ray's threads
    keys = {
        **KEYS,
        "model_args": {"pretrained": str(folder / "model"), "dtype": "float32"},
        "include_path": str(folder),
    }
    here, there = a_sweep(folder, tmp_path / "here", **KEYS), a_sweep(folder, tmp_path / "there", **KEYS)
    assert here.policies == there.policies and len(here.policies) == 3
    folders = run_on_ray(there, {**keys, "output_path": str(tmp_path / "there")})
    run_sweep(here)
    assert len(folders) == 6 and all(path.is_dir() for path in folders)
    assert "6.0/6" in capfd.readouterr().err
    ours, theirs = scores(tmp_path / "here"), scores(tmp_path / "there")
    assert ours.keys() == theirs.keys()
    for (task, policy), (results, samples) in ours.items():
        again, resampled = theirs[task, policy]
        assert_same(results[task], again[task])
        assert task == "pick" or [s["resps"] for s in samples] == [s["resps"] for s in resampled]
    # What is wrong is told as it is here.
    with pytest.raises(UsageError, match=r"unknown press 'tovva'\. Did you mean 'tova'"):
        run_on_ray(there, {**keys, "presses": "tovva", "output_path": str(tmp_path / "there")})
