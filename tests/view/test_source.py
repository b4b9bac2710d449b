"""A finished run whose files are damaged: one line that names the file, whatever is wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from mutations import mutated_text

from fairkv_eval.errors import UsageError
from fairkv_eval.view.source import Source, of_run, request_of

RESULT = {
    "config": {"model": "fairkv", "model_args": {"press": "tova", "ratio": 0.5}, "fewshot_seed": 7},
    "configs": {"t": {"metadata": {"version": 1.0, "seed": 3}}},
    "n-shot": {"t": 0},
    "chat_template": None,
    "fewshot_as_multiturn": False,
    "system_instruction": None,
}
ARGUMENTS = {"gen_args_0": {"arg_0": "Say.", "arg_1": {"until": []}}}
SAMPLES = [{"doc_id": i, "doc": {"x": i}, "arguments": ARGUMENTS, "resps": [["a"]]} for i in range(3)]


@pytest.mark.parametrize("seed", range(150))
def test_a_damaged_run(seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    texts = {
        "results_1.json": json.dumps(RESULT),
        "samples_t_1.jsonl": "".join(json.dumps(sample) + "\n" for sample in SAMPLES),
    }
    damaged = draw.choice(sorted(texts))
    for name, text in texts.items():
        (tmp_path / name).write_bytes(mutated_text(text, draw) if name == damaged else text.encode())
    try:
        source = of_run(tmp_path / "results_1.json")
        assert isinstance(source, Source)
        if source.samples and not source.chat:
            request, _ = request_of(source, 1, lm=None)  # type: ignore[arg-type]
            assert isinstance(request.args[0], str)
    except UsageError as error:
        assert "_1.json" in str(error) or "--doc 1" in str(error) or "task" in str(error)
        assert len(str(error).splitlines()) == 1
