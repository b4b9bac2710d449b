"""A sweep whose documents are answered in shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_sweeps import assert_same, cell_metrics, tiny_sweep

from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.run import run_sweep
from fairkv_eval.sweep.shard import Shard, run_shard
from fairkv_eval.sweep.task_run import TaskRun

pytestmark = pytest.mark.usefixtures("only_these_tasks")


@given(ids=st.lists(st.integers(0, 50)), count=st.integers(1, 6))
def test_each_document_is_in_one_shard(ids: list[int], count: int) -> None:
    shards = [Shard(number, count).documents(ids) for number in range(1, count + 1)]
    assert sorted(document for shard in shards for document in shard) == sorted(set(ids))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_shards_leave_nothing_to_answer(
    task_folder: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tiny_sweep(task_folder, tmp_path)
    counts = [run_shard(sweep, Shard(number, 3)) for number in (3, 1, 2)]
    assert sum(counts) == 7 * 5 * (3 + 2 + 1)  # documents, policies, and each task's answers per document
    assert not list(tmp_path.glob("model"))  # no cell
    journals = SweepFolder(tmp_path).journals()
    assert [path.name for path in journals] == [f"journal-{n}-of-3.jsonl" for n in (1, 2, 3)]
    assert sum(len(path.read_text().splitlines()) for path in journals) == sum(counts)
    monkeypatch.setattr(FairKV, "run", lambda *_: pytest.fail("it answers again"))
    run_sweep(sweep)
    ours, theirs = cell_metrics(tmp_path), cell_metrics(unbroken)
    assert ours.keys() == theirs.keys()
    for key, (results, samples) in ours.items():
        for task, metrics in results.items():
            assert_same(metrics, theirs[key][0][task])
        assert [sample["doc_id"] for sample in samples] == list(range(7))


def test_a_shard_measures_the_fidelity_of_its_documents(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"tasks": ["say"], "fidelity": True}
    for number in (1, 2):
        run_shard(tiny_sweep(task_folder, tmp_path / "shards", **keys), Shard(number, 2))
    run_sweep(tiny_sweep(task_folder, tmp_path / "whole", **keys))
    monkeypatch.setattr(FairKV, "run", lambda *_: pytest.fail("it compares again"))
    run_sweep(tiny_sweep(task_folder, tmp_path / "shards", **keys))
    ours, theirs = cell_metrics(tmp_path / "shards"), cell_metrics(tmp_path / "whole")
    assert all("fidelity_kl,none" in results["say"] for results, _ in ours.values())
    for key, (results, _) in ours.items():
        assert_same(results["say"], theirs[key][0]["say"])


def test_a_shard_passes_over_a_task_that_is_finished(task_folder: Path, tmp_path: Path) -> None:
    run_sweep(tiny_sweep(task_folder, tmp_path, tasks=["say"], fidelity=True))
    more = tiny_sweep(task_folder, tmp_path, tasks=["say", "some"], fidelity=True)
    answers = run_shard(more, Shard(1, 2))
    journal = tmp_path / ".sweep" / "journal-1-of-2.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    assert answers == 4 * 5 * 2 + sum("telemetry" in line for line in lines)  # those of the finished task too
    assert lines


def test_shards_measure_the_fidelity_of_answers_that_a_sweep_had(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tiny_sweep(task_folder, tmp_path, tasks=["say"], fidelity=True)
    with monkeypatch.context() as stopped:
        stopped.setattr(TaskRun, "follow", lambda *_: pytest.fail("stopped"))
        with pytest.raises(pytest.fail.Exception, match="stopped"):
            run_sweep(sweep)
    for number in (1, 2):
        run_shard(sweep, Shard(number, 2))
    monkeypatch.setattr(FairKV, "run", lambda *_: pytest.fail("it compares again"))
    run_shard(sweep, Shard(1, 2))
    run_sweep(sweep)
    assert all("fidelity_kl,none" in results["say"] for results, _ in cell_metrics(tmp_path).values())


def test_a_shard_that_was_stopped_resumes(task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = tiny_sweep(task_folder, tmp_path, tasks=["some"])
    run_shard(sweep, Shard(1, 2))
    (journal,) = SweepFolder(tmp_path).journals()
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-3]))
    assert run_shard(sweep, Shard(1, 2)) == len(lines)
    assert sorted(journal.read_text().splitlines(keepends=True)) == sorted(lines)
    monkeypatch.setattr(FairKV, "run", lambda *_: pytest.fail("it answers again"))
    assert run_shard(sweep, Shard(1, 2)) == len(lines)


def test_a_sweep_and_its_shards_keep_each_other_out(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    refused = pytest.raises(UsageError, match="another sweep is running in")
    with folder.lock("1-of-2"), folder.lock("2-of-2"):  # shards work side by side
        with refused, folder.lock():
            pytest.fail("a sweep beside a shard")
        with refused, folder.lock("1-of-2"):
            pytest.fail("a shard twice")
    with folder.lock(), refused, folder.lock("1-of-2"):
        pytest.fail("a shard beside a sweep")
    with folder.lock():
        pass


_LONG = "1/" + "9" * 5000


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "1.5/2", "²/3", _LONG])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard .* is not allowed; it takes k/n with k from 1 to n, as in 2/3"):
        Shard.read(text)


@pytest.mark.parametrize("other", [["--dry_run"], ["--launcher", "ray"]])
def test_what_is_of_a_whole_sweep_is_refused(
    other: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", "--presses", "tova", "--tasks", "raccoon_demo", "--output_path", str(tmp_path / "new")]
    assert main([*command, "--shard", "1/2", *other]) != 0
    assert "--shard cannot be combined with --dry_run or --launcher ray" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
