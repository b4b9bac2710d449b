"""A sweep on Ray gives the cells of a sweep here."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_sweeps import assert_same, cell_metrics, tiny_keys, tiny_sweep

from fairkv_eval.errors import UsageError
from fairkv_eval.sweep.on_ray import Share, run_on_ray, run_share, shares_of, shares_per_pair
from fairkv_eval.sweep.progress import WorkerBars, cells_done, running_bars
from fairkv_eval.sweep.run import run_sweep

KEYS = {"fair": False, "tasks": ["pick", "say"]}


@pytest.fixture(scope="module")
def workers():
    ray = pytest.importorskip("ray", reason="needs pip install ray")
    # Ray's workers would give way to everything else on the machine.
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_worker_niceness="0")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_shares_are_all_cells_once_and_enough_for_every_worker(task_folder: Path, tmp_path: Path) -> None:
    sweep = tiny_sweep(task_folder, tmp_path)
    assert list(shares_of(sweep, ["a", "b"], 2)) == [Share(0, "a", (0, 1, 2, 3, 4)), Share(0, "b", (0, 1, 2, 3, 4))]
    assert list(shares_of(sweep, ["a"], 2)) == [Share(0, "a", (0, 2, 4)), Share(0, "a", (1, 3))]
    assert list(shares_of(tiny_sweep(task_folder, tmp_path, fidelity=True), ["a"], 2)) == [
        Share(0, "a", (0, 1, 2, 3, 4))
    ]
    many = list(shares_of(sweep, ["a", "b"], 100))
    assert sorted((share.task, *share.policies) for share in many) == [(t, p) for t in "ab" for p in range(5)]
    assert len({share.journal for share in many}) == len(many)


@pytest.mark.parametrize(
    ("pairs", "workers", "shares"),
    [(1, 1, 1), (1, 2, 2), (2, 2, 1), (5, 2, 2), (3, 2, 2), (5, 8, 5), (40, 8, 1), (7, 8, 4)],
)
def test_no_worker_waits_long_for_the_last_share(pairs: int, workers: int, shares: int) -> None:
    assert shares_per_pair(pairs, workers) == shares


@pytest.mark.usefixtures("only_these_tasks")
def test_divided_into_shares_it_is_the_same_sweep(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {**KEYS, "tasks": ["say"], "presses": "tova"}
    run_sweep(tiny_sweep(task_folder, tmp_path / "here", **changes))
    keys = tiny_keys(task_folder, tmp_path / "there", **changes)
    shares = list(shares_of(tiny_sweep(task_folder, tmp_path / "there", **changes), ["say"], 2))
    monkeypatch.setenv("DISABLE_MULTIPROC", "")  # so that it is gone after this test
    monkeypatch.delenv("DISABLE_MULTIPROC")
    bars = WorkerBars()
    actor = SimpleNamespace(report=SimpleNamespace(remote=bars.report))
    assert len([folder for share in shares for folder in run_share(keys, share, actor)]) == len(shares) == 2
    assert os.environ["DISABLE_MULTIPROC"] == "1"  # a fork beside Ray's threads hangs
    assert cell_metrics(tmp_path / "here") == cell_metrics(tmp_path / "there")
    # The driver sees how far each share is.
    cells = {share.journal: len(share.policies) for share in shares}
    assert bars.positions().keys() == cells.keys()
    assert cells_done(bars.positions(), cells, bars=1) == sum(cells.values())
    assert "say 14/14 (1/1 cells, 14/14 prompts, " in running_bars(bars.positions(), cells)
    assert len(list((tmp_path / "there" / ".sweep").glob("journal-*.jsonl"))) == 2


@pytest.mark.long
def test_two_workers_give_the_cells_of_one_process(
    task_folder: Path, tmp_path: Path, workers, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")  # the sweep here would fork beside Ray's threads
    keys = tiny_keys(task_folder, tmp_path / "there", **KEYS)
    here, there = (
        tiny_sweep(task_folder, tmp_path / "here", **KEYS),
        tiny_sweep(task_folder, tmp_path / "there", **KEYS),
    )
    assert here.policies == there.policies and len(here.policies) == 3
    folders = run_on_ray(there, keys)
    run_sweep(here)
    assert len(folders) == 6 and all(path.is_dir() for path in folders)
    assert "6.0/6" in capfd.readouterr().err
    ours, theirs = cell_metrics(tmp_path / "here"), cell_metrics(tmp_path / "there")
    assert ours.keys() == theirs.keys()
    for (task, policy), (results, samples) in ours.items():
        again, resampled = theirs[task, policy]
        assert_same(results[task], again[task])
        assert task == "pick" or [s["resps"] for s in samples] == [s["resps"] for s in resampled]
    # A worker's error is raised as it is here.
    with pytest.raises(UsageError, match=r"unknown press 'tovva'\. Did you mean 'tova'"):
        run_on_ray(there, {**keys, "presses": "tovva"})
