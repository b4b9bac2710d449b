"""One evaluation of tiny tasks on a tiny model: in this process, or in each process of a launch.

python -m accelerate.commands.launch … tiny_evaluation.py FOLDER '{"press": "tova", "ratio": 0.5}'
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from pathlib import Path
from typing import Any

import tiny
import torch

# Contexts begin alike by more than `prefixes.SHORTEST` tokens; two documents have the same one.
PREAMBLE = "All of these questions begin with the same words, so that contexts share a prefill. "
WORDS = ["a red door", "two cats", "some rain", "an old map", "a red door", "salt", "seven tall trees by the river"]
PATIENCE = 200  # seconds
SHORTEST, LONGEST = (len(f"{PREAMBLE}What about {words}?") for words in WORDS[-2:])
TASKS = ["pick", "say", "some"]

_COMMON = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
num_fewshot: 0
doc_to_text: text
"""
_YAML = {
    "pick": """
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
""",
    "say": """
output_type: generate_until
doc_to_target: text
generation_kwargs: {until: [], max_gen_toks: 6, do_sample: true, temperature: 1.5}
repeats: 2
process_results: !function scoring.length
metric_list:
  - {metric: length, aggregation: median, higher_is_better: true}
  - {metric: keep_rate, aggregation: mean, higher_is_better: true}
""",
    "some": """
output_type: generate_until
doc_to_target: text
generation_kwargs: {until: [], max_gen_toks: 3}
process_results: !function scoring.by_document
metric_list:
  - {metric: all, aggregation: mean, higher_is_better: true}
  - {metric: zero, aggregation: mean, higher_is_better: true}
  - {metric: others, aggregation: mean, higher_is_better: true}
""",
}
# `zero` is a metric of the first document alone, which the first process has; `others` of some that it never has.
_SCORING = """
def length(doc, results):
    return {"length": len(results[0].encode()) + doc["id"], "keep_rate": results[0].telemetry["keep_rate"]}

def by_document(doc, results):
    extra = {0: {"zero": 3.0}, 1: {"others": 1.0}, 5: {"others": 4.0}}
    return {"all": sum(results[0].encode()) + 1 / (doc["id"] + 3), **extra.get(doc["id"], {})}
"""


def write_tasks(folder: Path) -> None:
    """A model and three tasks over the same seven documents."""
    tiny.model().save_pretrained(folder / "model")
    tiny.tokenizer().save_pretrained(folder / "model")
    docs = [
        {"id": i, "text": f"{PREAMBLE}What about {words}?", "choices": ["yes", "never", "it may be"], "gold": i % 3}
        for i, words in enumerate(WORDS)
    ]
    data = folder / "docs.jsonl"
    data.write_text("\n".join(map(json.dumps, docs)))
    (folder / "scoring.py").write_text(_SCORING)
    for name in TASKS:
        (folder / f"{name}.yaml").write_text(_COMMON.format(name=name, data=data) + _YAML[name])


def evaluate(folder: Path, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The harness's results as plain values, in the one process that is given them; None in the others."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import handle_non_serializable

    from fairkv_eval import plugin

    plugin.install()
    results = simple_evaluate(
        "fairkv",
        {"pretrained": str(folder / "model"), "dtype": "float32", **arguments},
        tasks=TASKS,
        device="cpu",
        batch_size=3,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=20,
        log_samples=True,
    )
    return results and json.loads(json.dumps(results, default=handle_non_serializable))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(PATIENCE)  # where it hangs, if it does
    results = evaluate(Path(sys.argv[1]), json.loads(sys.argv[2]))
    if results:
        # A name a process, so that two that write are seen.
        (Path(sys.argv[1]) / f"results_{os.environ['RANK']}.json").write_text(json.dumps(results))
    torch.distributed.barrier()  # the launchers of two machines wait for each other, but not forever
    torch.distributed.destroy_process_group()
