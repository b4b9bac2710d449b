"""Several processes over gloo, on one machine and on two: the numbers of one process, and an end where one fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
import tiny_evaluation
import torch

from fairkv_eval.errors import UsageError
from fairkv_eval.harness.processes import in_order, interleaved
from fairkv_eval.model import FairKV

# The longest document is truncated, which makes a note.
POLICY = {"press": "tova", "ratio": 0.5, "truncation": True, "max_length": tiny_evaluation.LONGEST}
LIMIT = 2 * tiny_evaluation.PATIENCE  # seconds a launch may take on a busy machine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    tiny_evaluation.write_tasks(folder)
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict:
    results = tiny_evaluation.evaluate(folder, POLICY)
    assert results
    return results


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(folder: Path, arguments: dict, processes: int, machines: int = 1) -> list[tuple[int, str]]:
    """Exit status and stderr of `accelerate launch` on each machine, all of them this one."""
    # `--cpu` would start one process, however many are asked for.
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    counts = ["--multi_gpu", f"--num_processes={processes}", f"--num_machines={machines}"]
    meeting = ["--main_process_ip=127.0.0.1", f"--main_process_port={free_port()}"]
    plain = ["--mixed_precision=no", "--dynamo_backend=no"]
    program = [str(Path(__file__).parents[1] / "support" / "tiny_evaluation.py"), str(folder), json.dumps(arguments)]
    command = [sys.executable, "-m", "accelerate.commands.launch", *counts, *meeting, *plain]
    started = [
        subprocess.Popen(
            [*command, f"--machine_rank={rank}", *program], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in range(machines)
    ]
    deadline = time.monotonic() + LIMIT
    errors = []
    for process in started:
        try:
            errors.append(process.communicate(timeout=max(deadline - time.monotonic(), 1))[1])
        except subprocess.TimeoutExpired:
            process.terminate()  # the launcher ends its workers
            errors.append(process.communicate()[1])
    return [(process.returncode, text) for process, text in zip(started, errors, strict=True)]


@pytest.mark.parametrize(("processes", "machines"), [(3, 1), pytest.param(2, 2, marks=pytest.mark.long)])
def test_the_numbers_are_those_of_one_process(alone: dict, folder: Path, processes: int, machines: int) -> None:
    for left in folder.glob("results_*.json"):
        left.unlink()
    for status, stderr in launch(folder, POLICY, processes, machines):
        assert status == 0, stderr[-3000:]
    assert [path.name for path in folder.glob("results_*.json")] == ["results_0.json"]
    results = json.loads((folder / "results_0.json").read_text())
    assert results["results"] == alone["results"]
    assert results["n-samples"] == alone["n-samples"]
    for task in tiny_evaluation.TASKS:
        assert len(alone["samples"][task]) == len(tiny_evaluation.WORDS)
        for ours, theirs in zip(results["samples"][task], alone["samples"][task], strict=True):
            same = ours.keys() - {"resps", "filtered_resps"}
            assert {k: ours[k] for k in same} == {k: theirs[k] for k in same}
            assert _close(ours["resps"], theirs["resps"])
    assert all(len(sample["resps"][0]) == 2 for sample in results["samples"]["say"])
    assert set(results["results"]["some"]) >= {"zero,none", "others,none"}
    ours, theirs = results["config"]["fairkv"], alone["config"]["fairkv"]
    # Contexts that begin alike, or are the same, share a prefill only within a process.
    shared = {"contexts", "prefill_tokens", "shared_tokens", "kv_pairs_full", "kv_pairs_kept"}
    shared |= {"kv_bytes_full", "kv_bytes_kept", "achieved_ratio", "commit"}
    same = {k for k in theirs if not k.endswith("_per_second")} - shared
    assert {k: ours[k] for k in same} == {k: theirs[k] for k in same}
    assert ours["notes"]["prompts truncated"] == 6
    assert theirs["shared_tokens"] > ours["shared_tokens"]
    assert ours["contexts"] >= theirs["contexts"] > 0
    assert ours["kv_bytes_kept"] / ours["kv_bytes_full"] == pytest.approx(0.5, abs=0.01)


def _close(ours: list, theirs: list) -> bool:
    """Answers that are texts are the same, those that are numbers as good as."""
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(_close, ours, theirs))
    try:
        return float(ours) == pytest.approx(float(theirs), abs=1e-4)
    except ValueError:
        return ours == theirs


def test_a_failing_process_ends_the_run_on_every_machine_with_its_error(folder: Path) -> None:
    # Only the shortest document, which is the second machine's, has no room for so many.
    arguments = {"press": "tova", "ratio": 0.5, "keep": f"0:{tiny_evaluation.SHORTEST // 2 + 1}"}
    for left in folder.glob("results_*.json"):
        left.unlink()
    (first, _), (second, stderr) = launch(folder, arguments, 2, machines=2)
    assert first != 0 and second != 0
    assert "fairkv: task pick, doc 5: keep holds 51 tokens" in stderr
    assert not list(folder.glob("results_*.json"))


def test_processes_that_do_not_know_of_each_other_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"2 processes were launched .* ACCELERATE_USE_CPU=true"):
        FairKV(str(folder / "model"), device="cpu")


def test_a_process_of_several_forks_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    # A fork beside the threads of a process group may wait forever.
    for processes, expected in ((1, None), (2, "1")):
        monkeypatch.setenv("DISABLE_MULTIPROC", "")
        monkeypatch.delenv("DISABLE_MULTIPROC")
        lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer())
        lm.accelerator = SimpleNamespace(num_processes=processes, process_index=0)
        lm.join_processes()
        assert os.environ.get("DISABLE_MULTIPROC") == expected


class Rank(FairKV):
    """The first of so many processes, which are given what they would gather."""

    def __init__(self, *others: object) -> None:
        super().__init__(tiny.model(), tokenizer=tiny.tokenizer())
        self._world_size = 1 + len(others)
        self.others = others


@pytest.fixture
def gathering(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lm_eval.models.huggingface.HFLM.gather_object", lambda lm, obj, dst: [obj, *lm.others])


def test_no_process_repeats_requests_for_another() -> None:
    assert Rank({}, {}).all_gather(torch.tensor(5)).tolist() == [5, 5, 5]


def test_what_is_no_sample_or_metric_is_gathered_as_it_is(gathering: None) -> None:
    assert Rank((1, 2)).gather_object((3, 4)) == [(3, 4), (1, 2)]
    assert Rank().gather_object({"task": {"metric": [1]}}) == [{"task": {"metric": [1]}}]


def test_metrics_that_the_first_process_lacks_get_a_place_in_the_harness_table(gathering: None) -> None:
    key, new = ("all", "none"), ("new", "none")
    eval_results_acc = {"task": {"raw_metrics": {key: [1, 3]}}}
    lm = Rank({"task": {key: [2], new: [7]}})
    assert lm.gather_object({"task": dict(eval_results_acc["task"]["raw_metrics"])}) == [
        {"task": {key: [1, 2, 3], new: [7]}},
        {"task": {key: [], new: []}},
    ]
    assert set(eval_results_acc["task"]["raw_metrics"]) == {key, new}
    assert not lm.run_log.notes


def test_a_metric_without_a_place_is_told(gathering: None) -> None:
    lm = Rank({"task": {("new", "none"): [7]}})
    lm.gather_object({"task": {}})
    (note,) = lm.get_model_info()["fairkv"]["notes"]
    assert note.startswith("left out") and "task ('new', 'none')" in note


def test_samples_come_in_the_order_of_the_documents_filter_by_filter() -> None:
    def samples(*ids: int) -> list[dict]:
        return [{"doc_id": i, "filter": name} for name in ("strict", "loose") for i in ids]

    merged, *rest = in_order([{"task": samples(0, 3, 6)}, {"task": samples(1, 4)}, {"task": samples(2, 5)}])
    assert merged == {"task": samples(*range(7))} and rest == [{"task": []}, {"task": []}]
    assert interleaved([[None, 0], [None]]) == [None, None, 0]


@pytest.mark.parametrize("plan", ["auto", {"layers.*.self_attn.q_proj": "colwise"}])
def test_tensor_parallelism_is_refused_by_name(plan: object) -> None:
    with pytest.raises(UsageError, match=r"tp_plan=.*(auto|colwise).* is not supported.*parallelize=true"):
        FairKV("no model is loaded", tp_plan=plan)
