"""Sweeps on tiny tasks and a tiny model: cells as separate runs give them, and runs that were broken off."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_evaluation
import torch
from filelock import FileLock
from tiny_sweeps import assert_same, cell_files, cell_metrics, tiny_sweep

from fairkv_eval import provenance
from fairkv_eval.engine.measure import measure
from fairkv_eval.errors import UsageError
from fairkv_eval.harness import statistics
from fairkv_eval.model import FairKV
from fairkv_eval.results.reader import read
from fairkv_eval.sweep.estimate import dry_run
from fairkv_eval.sweep.journal import read_answers
from fairkv_eval.sweep.loaded_model import LoadedModel
from fairkv_eval.sweep.run import run_sweep
from fairkv_eval.sweep.task_run import TaskRun
from fairkv_eval.sweep.tasks import load_tasks

pytestmark = pytest.mark.usefixtures("only_these_tasks")

POLICIES = {
    "full": {},
    "tova_ratio=0.5": {"press": "tova", "ratio": 0.5},
    "tova_ratio=0.5_fair=1": {"press": "tova", "ratio": 0.5, "fair": True},
    "snapkv_window=8_ratio=0.5": {"press": "snapkv", "window": 8, "ratio": 0.5},
    "snapkv_window=8_ratio=0.5_fair=1": {"press": "snapkv", "window": 8, "ratio": 0.5, "fair": True},
}


def test_every_cell_is_what_a_run_of_its_own_gives(task_folder: Path, unbroken: Path) -> None:
    files = cell_files(unbroken)
    assert {policy for _, policy in files} == set(POLICIES) and len(files) == len(POLICIES) * len(tiny_evaluation.TASKS)
    for policy in ("full", "tova_ratio=0.5_fair=1", "snapkv_window=8_ratio=0.5"):
        alone = tiny_evaluation.evaluate(task_folder, POLICIES[policy])
        for task in tiny_evaluation.TASKS:
            ours, samples = files[task, policy]
            assert_same(ours["results"][task], alone["results"][task])
            for a, b in zip(samples, alone["samples"][task], strict=True):
                assert {k: a[k] for k in ("doc", "doc_id", "doc_hash", "prompt_hash", "target_hash")} == {
                    k: b[k] for k in ("doc", "doc_id", "doc_hash", "prompt_hash", "target_hash")
                }
                if task != "pick":
                    assert a["resps"] == b["resps"]
            config = ours["config"]["fairkv"]
            for key in ("press", "ratio", "fair", "parameters", "press_sha256", "model_sha256"):
                assert config[key] == alone["config"]["fairkv"][key]
            assert config["sweep"]["cell"]
        bytes_alone = alone["config"]["fairkv"]  # of all three tasks, which share their contexts
        assert files["pick", policy][0]["config"]["fairkv"]["achieved_ratio"] == bytes_alone["achieved_ratio"]


def test_merging_is_a_setting_of_a_press_entry(task_folder: Path, tmp_path: Path) -> None:
    entry = {"press": "knorm", "merge": ["none", "similar", "d2o"]}
    run_sweep(tiny_sweep(task_folder, tmp_path, tasks=["some"], presses=[entry], ratios=0.8, fair=True))
    files = cell_files(tmp_path)
    rules = {"knorm_ratio=0.8_fair=1": "none"}
    rules |= {f"knorm_ratio=0.8_fair=1_merge={rule}": rule for rule in ("similar", "d2o")}
    assert {policy for _, policy in files} == set(rules)
    kept = files["some", "knorm_ratio=0.8_fair=1"][0]["config"]["fairkv"]["kv_bytes_kept"]
    for policy, rule in rules.items():
        result, samples = files["some", policy]
        alone = tiny_evaluation.evaluate(task_folder, {"press": "knorm", "ratio": 0.8, "fair": True, "merge": rule})
        assert [a["resps"] for a in samples] == [b["resps"] for b in alone["samples"]["some"]]
        assert result["config"]["fairkv"]["merge"] == alone["config"]["fairkv"]["merge"] == rule
        assert result["config"]["fairkv"]["kv_bytes_kept"] == kept
        assert (alone["config"]["fairkv"]["kv_pairs_merged"] > 0) == (rule != "none")
    assert len({str([sample["resps"] for sample in samples]) for _, samples in files.values()}) > 1


def test_statistics_are_measured_for_what_runs_and_named_by_each_cell(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def counted(engine: Any, tokens: Any, rule: Any, label: str, *rest: Any) -> Any:
        measured.append(label)
        return measure(engine, tokens, rule, label, *rest)

    monkeypatch.setattr(statistics, "measure", counted)
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))
    sweep = tiny_sweep(task_folder, tmp_path / "out", tasks=["some"], presses=["qfilter", "tova"], ratios=0.5)
    dry_run(sweep)  # times some of the answers, which need them
    run_sweep(sweep)
    assert measured == ["statistics of press 'qfilter'"]
    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "another"))
    run_sweep(sweep)  # nothing is left to run
    assert len(measured) == 1
    files = cell_files(tmp_path / "out")
    named = {policy: result["config"]["fairkv"].get("statistics") for (_, policy), (result, _) in files.items()}
    for fair in ("", "_fair=1"):
        assert named[f"qfilter_ratio=0.5{fair}"]["statistics"] == "qfilter"
        assert named[f"tova_ratio=0.5{fair}"] is None
    alone = tiny_evaluation.evaluate(task_folder, {"press": "qfilter", "ratio": 0.5})
    assert alone["config"]["fairkv"]["statistics"] == named["qfilter_ratio=0.5"]
    samples = files["some", "qfilter_ratio=0.5"][1]
    assert [a["resps"] for a in samples] == [b["resps"] for b in alone["samples"]["some"]]


def test_finished_cells_and_journalled_answers_are_not_computed_again(
    task_folder: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "again"
    shutil.copytree(unbroken, output)
    files = sorted(output.rglob("results_*"))
    for cell in (files[0].parent, files[-1].parent):
        shutil.rmtree(cell)
    monkeypatch.setattr(FairKV, "run", lambda self, jobs: pytest.fail("computed again"))
    folders = run_sweep(tiny_sweep(task_folder, output))
    assert cell_metrics(output) == cell_metrics(unbroken) and len(folders) == len(files)
    assert [path for path in files[1:-1] if not path.exists()] == []


def test_a_run_broken_off_anywhere_ends_as_an_unbroken_one(task_folder: Path, unbroken: Path, tmp_path: Path) -> None:
    journal = (unbroken / ".sweep" / "journal.jsonl").read_bytes()
    for cut in (17, len(journal) // 2 + 1, len(journal) - 1):  # inside the first line, amid answers, inside the last
        output = tmp_path / str(cut)
        (output / ".sweep" / "unfinished" / "old").mkdir(parents=True)
        (output / ".sweep" / "journal.jsonl").write_bytes(journal[:cut])
        run_sweep(tiny_sweep(task_folder, output))
        assert cell_metrics(output).keys() == cell_metrics(unbroken).keys()
        for key, (results, samples) in cell_metrics(output).items():
            same, as_before = cell_metrics(unbroken)[key]
            assert_same(results[key[0]], same[key[0]])
            assert [s["doc_hash"] for s in samples] == [s["doc_hash"] for s in as_before]
            assert key[0] == "pick" or [s["resps"] for s in samples] == [s["resps"] for s in as_before]


def test_what_could_change_a_number_makes_another_cell(task_folder: Path, unbroken: Path, tmp_path: Path) -> None:
    sweep = tiny_sweep(task_folder, tmp_path)
    model = LoadedModel.load(sweep, sweep.models[0])

    def ids(**keys) -> set[str]:
        sweep = tiny_sweep(task_folder, tmp_path, tasks=["say"], **keys)
        return {cell.id for cell in TaskRun(sweep, model, load_tasks(sweep, sweep.models[0])["say"]).cells}

    base = ids()
    assert ids() == base and ids(batch_size=7) == base and ids(presses="tova") < base
    for other in (
        {"limit": 3},
        {"seed": 5},
        {"gen_kwargs": {"max_gen_toks": 5}},
        {"metadata": {"a": 1}},
        {"system_instruction": "Be brief."},
        {"bootstrap_iters": 30},
    ):
        assert not ids(**other) & base, other


def test_more_documents_or_other_metrics_take_the_answers_that_are_there(
    task_folder: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what an answer depends on decides whether it is computed again."""
    answered: list[int] = []
    run = FairKV.run
    monkeypatch.setattr(FairKV, "run", lambda self, jobs: (answered.append(len(jobs)), run(self, jobs))[1])
    folder = tmp_path / "tasks"
    shutil.copytree(task_folder, folder, ignore=shutil.ignore_patterns("model"))

    def sweep(**keys: Any) -> list[int]:
        answered.clear()
        model_args = {"pretrained": str(task_folder / "model"), "dtype": "float32"}
        run_sweep(tiny_sweep(folder, tmp_path / "out", tasks=["say", "pick"], model_args=model_args, **keys))
        return [*answered]

    commits = [{**provenance.describe(), "commit": name} for name in ("older", "newer")]
    monkeypatch.setattr(provenance, "describe", lambda: commits[0])
    assert sweep(limit=3) == [3 * 5 * 2, 3 * 5 * 3]  # documents, policies, answers per document
    assert sweep(limit=2) == []
    monkeypatch.setattr(provenance, "describe", lambda: commits[1])
    assert sweep() == [4 * 5 * 2, 4 * 5 * 3]
    for key, (results, samples) in cell_metrics(unbroken).items():
        if key[0] != "some":
            whole = next(cell for cell in _of_all_documents(tmp_path / "out", *key))
            assert_same(whole["results"][key[0]], results[key[0]])
            per_document = 2 if key[0] == "say" else 3
            config = whole["config"]["fairkv"]
            assert config["commit"] == "newer"
            assert config["sweep"]["answers_by_commit"] == {"older": 3 * per_document, "newer": 4 * per_document}
            assert whole["n-samples"][key[0]]["effective"] == len(samples) == 7
    assert sweep(bootstrap_iters=30) == []
    for path, before, after in (
        (folder / "scoring.py", 'doc["id"], "keep_rate"', 'doc["id"] + 100, "keep_rate"'),
        (folder / "pick.yaml", "  - {metric: acc_norm, aggregation: mean, higher_is_better: true}\n", ""),
    ):
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))
    assert sweep() == []
    lengths = [cell["results"]["say"]["length,none"] for cell in _of_all_documents(tmp_path / "out", "say", "full")]
    assert len(lengths) == 2 and abs(lengths[1] - lengths[0]) == 100
    assert sweep(seed=5) == [7 * 5 * 2, 7 * 5 * 3]
    assert sweep(gen_kwargs={"max_gen_toks": 5}) == [7 * 5 * 2]  # which a multiple choice does not have


def _of_all_documents(output: Path, task: str, policy: str) -> list[dict[str, Any]]:
    """The results of a policy's cells of all seven documents, with as many bootstraps as the tiny sweep has."""
    results = [json.loads(path.read_text()) for path in output.glob(f"model/{task}/{policy}-*/results_*.json")]
    return [r for r in results if r["config"]["limit"] is None and r["config"]["bootstrap_iters"] == 20]


def test_two_checkpoints_of_one_name_are_two_models(task_folder: Path, tmp_path: Path) -> None:
    keys = {"tasks": ["some"], "presses": "tova", "ratios": 0.5, "fair": False}
    for step, seed in ((1000, 0), (2000, 1)):
        folder = tmp_path / f"step{step}" / "model"
        shutil.copytree(task_folder / "model", folder)
        (folder / "model.safetensors").unlink()
        torch.save(tiny.model(seed=seed).state_dict(), folder / "pytorch_model.bin")
        arguments = {"pretrained": str(folder), "dtype": "float32"}
        (path,) = run_sweep(tiny_sweep(task_folder, tmp_path / "out", model_args=arguments, **keys))
        assert path.is_dir()
    first, second = read(tmp_path / "out").records
    assert first.model == second.model == "model"
    assert first.model_sha != second.model_sha and first.identity != second.identity


def test_two_sweeps_on_one_folder(task_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".sweep").mkdir()
    with (
        FileLock(tmp_path / ".sweep" / "lock"),
        pytest.raises(UsageError, match=r"another sweep is running in .*; wait until it ends, or name another"),
    ):
        run_sweep(tiny_sweep(task_folder, tmp_path))
    assert [path.name for path in (tmp_path / ".sweep").iterdir()] == ["lock"]


def test_a_dry_run_estimates_unfinished_cells_and_writes_nothing(
    task_folder: Path, unbroken: Path, tmp_path: Path
) -> None:
    estimates = dry_run(tiny_sweep(task_folder, tmp_path / "new", gen_kwargs={"max_gen_toks": 5}))
    assert not (tmp_path / "new").exists()
    context = sum(len(f"{tiny_evaluation.PREAMBLE}What about {words}?") - 1 for words in set(tiny_evaluation.WORDS))
    per_cell_and_document = {  # answers, and each one's new tokens; tail tokens together
        "pick": (3, 0, len(" yes") + len(" never") + len(" it may be")),
        "say": (2, 5, 2),
        "some": (1, 5, 1),
    }
    assert {estimate.task for estimate in estimates} == set(per_cell_and_document)
    for row in estimates:
        answers, decode, tail = per_cell_and_document[row.task]
        assert (row.cells, row.finished, row.documents) == (5, 0, 7)
        assert row.answers == 7 * 5 * answers and row.max_decode_tokens == 7 * 5 * answers * decode
        assert row.prefill_tokens == context and row.tail_tokens == 7 * 5 * tail and row.seconds > 0
    finished = dry_run(tiny_sweep(task_folder, unbroken))
    assert [(row.finished, row.answers, row.seconds) for row in finished] == [(5, 0, 0)] * 3
    # Fidelity reads the contexts twice more and scores each answer, here of at most 5 tokens, for every cell.
    sweep = tiny_sweep(task_folder, unbroken, tasks=["pick", "say"], fidelity=True, gen_kwargs={"max_gen_toks": 5})
    pick, say = dry_run(sweep)
    assert (pick.prefill_tokens, say.prefill_tokens) == (0, 3 * context)  # picks have no max_gen_toks
    assert say.tail_tokens == 7 * 5 * (2 + 2 + 2 * 5) and say.max_decode_tokens == 7 * 5 * 2 * 5


def test_a_launcher_of_several_processes_is_refused(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="2 processes were launched"):
        run_sweep(tiny_sweep(task_folder, tmp_path))


def test_tasks_are_checked_before_a_model_is_loaded(
    task_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FairKV, "_create_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UsageError, match=r"unknown task 'pck'\. Did you mean 'pick'\?"):
        run_sweep(tiny_sweep(task_folder, tmp_path / "new", tasks=["say", "pck"]))
    assert not (tmp_path / "new").exists()


def test_a_task_that_no_folder_can_be_named_after_is_refused(task_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(task_folder, tmp_path / "tasks")
    odd = tmp_path / "tasks" / "say.yaml"
    odd.write_text(odd.read_text().replace("task: say", "task: a/b"))
    with pytest.raises(UsageError, match=r"task 'a/b' cannot be swept: .* a slash"):
        run_sweep(tiny_sweep(tmp_path / "tasks", tmp_path / "new", tasks=["a/b"]))
    assert not (tmp_path / "new").exists()


def test_the_journal_of_a_cell_holds_its_answers(task_folder: Path, unbroken: Path) -> None:
    sweep = tiny_sweep(task_folder, unbroken)
    model = LoadedModel.load(sweep, sweep.models[0])
    run = TaskRun(sweep, model, load_tasks(sweep, sweep.models[0])["say"])
    answers = read_answers([unbroken / ".sweep" / "journal.jsonl"], [run.full.answers_id])
    assert answers.keys() == {run.full.key(slot) for slot in run.slots} and len(answers) == 7 * 2


def test_a_task_with_nothing_to_evict_is_refused_by_name(task_folder: Path, tmp_path: Path) -> None:
    """All its cells would be the same; tasks with contexts beside it do not change that."""
    (tmp_path / "short.jsonl").write_text('{"text": "a"}\n{"text": "bc"}')
    (tmp_path / "short.yaml").write_text(
        f"task: short\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'short.jsonl'}}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: text\ndoc_to_target: text\n"
        "generation_kwargs: {until: [], max_gen_toks: 1}\nmetric_list: [{metric: exact_match}]\n"
    )
    keys = {"include_path": [str(task_folder), str(tmp_path)], "presses": ["tova"], "limit": 2}
    with pytest.raises(UsageError, match=r"task short: press=tova has nothing to evict: no context has more"):
        run_sweep(tiny_sweep(task_folder, tmp_path / "out", tasks=["some", "short"], **keys))
    assert not list((tmp_path / "out").glob("**/results_*"))
