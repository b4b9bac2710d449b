"""What a cell's files say: a speed if the run was the cell's own, and the prompt of each sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_sweeps import tiny_sweep

from fairkv_eval.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("only_these_tasks")


def files(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (result,), (samples,) = folder.glob("results_*.json"), folder.glob("samples_*.jsonl")
    return json.loads(result.read_text()), [json.loads(line) for line in samples.read_text().splitlines()]


def speeds(folder: Path) -> dict[str, float]:
    config = files(folder)[0]["config"]["fairkv"]
    return {name: value for name, value in config.items() if name.endswith("_per_second")}


def test_only_a_run_of_one_cell_has_speeds(task_folder: Path, tmp_path: Path) -> None:
    keys = {"presses": "tova", "fair": False, "tasks": ["say"]}
    (alone,) = run_sweep(tiny_sweep(task_folder, tmp_path / "one", **keys, ratios=[0.5]))
    assert set(speeds(alone)) == {f"{kind}_tokens_per_second" for kind in ("prefill", "tail", "decode")}
    assert all(speed > 0 for speed in speeds(alone).values())
    shared = run_sweep(tiny_sweep(task_folder, tmp_path / "two", **keys, ratios=[0, 0.5]))
    assert [speeds(folder) for folder in shared] == [{}, {}]
    completed = run_sweep(tiny_sweep(task_folder, tmp_path / "one", **keys, ratios=[0.5], fidelity=True))
    assert speeds(alone) in [speeds(folder) for folder in completed]


def test_the_achieved_ratio_is_of_pairs_also_if_they_are_packed(task_folder: Path, tmp_path: Path) -> None:
    presses = [{"press": "none", "kv_bits": 8}, {"press": "tova", "ratios": [0.5], "kv_bits": 8}]
    whole, half = run_sweep(tiny_sweep(task_folder, tmp_path, presses=presses, ratios=[0], fair=False, tasks=["say"]))
    achieved = [files(folder)[0]["config"]["fairkv"]["achieved_ratio"] for folder in (whole, half)]
    assert achieved == [0, pytest.approx(0.5, abs=0.02)]


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_are_those_of_a_run_of_its_own(chat: bool, task_folder: Path, tmp_path: Path) -> None:
    """With the harness's template a document that is plain text has turns, as in `lm_eval --apply_chat_template`."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    keys = {"presses": "tova", "fair": True, "tasks": ["pick", "some"], "ratios": [0.5], "apply_chat_template": chat}
    folders = run_sweep(tiny_sweep(task_folder, tmp_path, **keys))
    arguments = {"pretrained": str(task_folder / "model"), "dtype": "float32", "press": "tova", "ratio": 0.5}
    plain = simple_evaluate(
        "fairkv",
        {**arguments, "fair": True},
        tasks=keys["tasks"],
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        apply_chat_template=chat,
        device="cpu",
        bootstrap_iters=0,
    )
    for folder, samples in zip(folders, plain["samples"].values(), strict=True):
        result, of_cell = files(folder)
        assert [sample["prompts"] for sample in of_cell] == [sample["prompts"] for sample in samples]
        assert {sample["prompts"][0]["segments"] for sample in of_cell} == {"turns" if chat else "paragraphs"}
        assert bool(result["chat_template"]) == chat


def test_cut_answers_are_counted_as_in_a_run_of_its_own(task_folder: Path, tmp_path: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    until = {"until": [chr(code) for code in range(ord("A"), ord("Z"))]}  # some answers come to one of these
    keys = {"presses": "tova", "fair": False, "ratios": [0.5], "tasks": ["say", "pick"]}
    said, picked = run_sweep(tiny_sweep(task_folder, tmp_path, **keys, gen_kwargs=until))
    plain = simple_evaluate(
        "fairkv",
        {"pretrained": str(task_folder / "model"), "dtype": "float32", "press": "tova", "ratio": 0.5},
        tasks=["say"],
        task_manager=TaskManager(include_path=str(task_folder), include_defaults=False),
        gen_kwargs=until,
        device="cpu",
        bootstrap_iters=0,
    )
    cut = files(said)[0]["config"]["fairkv"]["answers_cut"]
    assert 0 < cut < 14
    assert plain["config"]["fairkv"]["answers_cut"] == cut
    assert files(picked)[0]["config"]["fairkv"]["answers_cut"] == 0
