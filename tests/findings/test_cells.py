"""Cells of a model from its records: which belong together, and what is left out by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import synthetic_results

from fairkv_eval.findings.cells import arrange
from fairkv_eval.results.reader import read

DOCS = synthetic_results.documents(6)


def write(folder: Path, number: int, **changed) -> Path:
    return synthetic_results.write(folder, **{"docs": DOCS, "scores": [1.0] * 6, "number": number, **changed})


def test_models_and_tasks_apart(tmp_path: Path) -> None:
    write(tmp_path, 0)
    write(tmp_path, 1, press="tova", ratio=0.5)
    write(tmp_path, 2, task="other_task")
    write(tmp_path, 3, model="a/model")
    first, second = arrange(read(tmp_path).records)
    assert (first.model, list(first.tasks)) == ("a/model", ["made_task"])
    assert {task: len(cells.records) for task, cells in second.tasks.items()} == {"made_task": 2, "other_task": 1}
    made = second.tasks["made_task"]
    assert made.full is not None and [p.press for p in made.presses] == ["tova"]
    assert made.plain()["tova"].keys() == {0.5}


def test_results_under_other_conditions_or_without_samples_are_left_out_by_name(tmp_path: Path) -> None:
    for number in (0, 1):
        write(tmp_path, number, press="tova", ratio=0.3 * (number + 1))
    write(tmp_path, 2, press="tova", ratio=0.9, torch_seed=5)
    write(tmp_path, 3, press="knorm", ratio=0.3, samples=False)
    (cells,) = arrange(read(tmp_path).records)
    assert len(cells.tasks["made_task"].records) == 2
    assert sorted(cells.left_out) == [
        "1 results of made_task under other conditions than most",
        "knorm ratio=0.3 of made_task: no samples beside it; run with --log_samples",
    ]


def test_damaged_samples_are_left_out_by_name(tmp_path: Path) -> None:
    write(tmp_path, 0)
    damaged = write(tmp_path, 1, press="tova", ratio=0.5)
    samples = damaged.with_name(damaged.name.replace("results_", "samples_made_task_")).with_suffix(".jsonl")
    samples.write_text(samples.read_text()[:200])
    (cells,) = arrange(read(tmp_path).records)
    assert len(cells.tasks["made_task"].records) == 1
    assert len(cells.left_out) == 1 and cells.left_out[0].startswith("tova ratio=0.5 of made_task: samples_made_task")


def test_values_stand_in_one_order_of_documents(tmp_path: Path) -> None:
    scores = [float(i % 2) for i in range(6)]
    write(tmp_path, 0, scores=scores)
    write(tmp_path, 1, press="tova", ratio=0.5, docs=DOCS[::-1], scores=scores[::-1])
    (cells,) = arrange(read(tmp_path).records)
    made = cells.tasks["made_task"]
    first, second = (made.values(policy, "acc") for policy in made.records)
    assert first is not None and np.array_equal(first, second)  # type: ignore[arg-type]


def test_presses_that_differ_in_parameters_have_their_whole_names(tmp_path: Path) -> None:
    for number, window in enumerate((16, 64)):
        write(tmp_path, number, press="snapkv", ratio=0.5, parameters={"window": window})
    write(tmp_path, 3, press="tova", ratio=0.5)
    (cells,) = arrange(read(tmp_path).records)
    names = set(cells.tasks["made_task"].presses.values())
    assert names == {"snapkv(window=16)", "snapkv(window=64)", "tova"}
