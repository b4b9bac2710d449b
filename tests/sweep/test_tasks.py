"""The tasks of a sweep are loaded as `lm_eval` loads them: with the model's tokenizer, and from the seeds."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy
from datasets import Dataset
from tiny_sweeps import tiny_sweep

from fairkv_eval.sweep.tasks import load_tasks

DRAWING = """
task: drawn
custom_dataset: !function drawing.documents
output_type: generate_until
test_split: test
doc_to_text: "{{text}}"
doc_to_target: ""
metadata: {version: 1.0, shade: dark}
"""
DOCUMENTS = """
import random
import numpy
from datasets import Dataset
def documents(**metadata):
    text = f"{random.random()} {numpy.random.random()} {sorted(metadata.items())}"
    return {"test": Dataset.from_list([{"text": text}])}
"""


def drawn(task_folder: Path, tmp_path: Path, arguments: dict[str, Any], **keys: Any) -> tuple[Any, str]:
    folder = tmp_path / "drawing_tasks"
    folder.mkdir(exist_ok=True)
    (folder / "drawn.yaml").write_text(DRAWING)
    (folder / "drawing.py").write_text(DOCUMENTS)
    sweep = tiny_sweep(task_folder, tmp_path, tasks=["drawn"], include_path=str(folder), **keys)
    task = load_tasks(sweep, {**sweep.models[0], **arguments})["drawn"]
    data: Dataset = task.test_docs()
    return task, data[0]["text"]


def test_documents_are_drawn_from_the_seeds(task_folder: Path, tmp_path: Path) -> None:
    first = drawn(task_folder, tmp_path, {})[1]
    random.seed(99)
    numpy.random.seed(99)
    assert drawn(task_folder, tmp_path, {})[1] == first != drawn(task_folder, tmp_path, {}, seed=7)[1]


def test_a_task_is_told_the_model_s_tokenizer_and_its_results_are_not(task_folder: Path, tmp_path: Path) -> None:
    arguments = {"gguf_file": "a.gguf", "segments": "sentences"}
    task, text = drawn(task_folder, tmp_path, arguments, metadata={"tokenizer": "counts"})
    metadata = {"dtype": "float32", "gguf_file": "a.gguf", "pretrained": str(task_folder / "model")}
    metadata |= {"tokenizer": "counts", "shade": "dark"}
    assert all(str(entry) in text for entry in metadata.items()) and "segments" not in text
    kept = {key: value for key, value in task.config.metadata.items() if key != "config_source"}
    assert kept == {"version": 1.0, "shade": "dark", "tokenizer": "counts"}


def test_what_the_user_says_goes_first(task_folder: Path, tmp_path: Path) -> None:
    task, text = drawn(task_folder, tmp_path, {}, metadata={"pretrained": "another"})
    assert "('pretrained', 'another')" in text and task.config.metadata["pretrained"] == "another"
