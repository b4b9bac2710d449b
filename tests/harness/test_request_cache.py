"""Chats from the harness's request cache, in another process: the same contexts and segments as when they were made."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import tiny
from lm_eval.api.task import ConfigurableTask
from lm_eval.caching import cache
from lm_eval.models.huggingface import HFLM

from fairkv_eval.model import FairKV
from fairkv_eval.prompts.chat import ChatText

DROPS = "{% for m in messages if m.role != 'system' %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
INTO_THE_LAST_TURN = (
    "{% for m in messages if m.role != 'system' %}<|start|>{{ m.role }}\n"
    "{% if loop.last %}{{ messages[0].content }}\n\n{% endif %}{{ m.content }}<|end|>\n{% endfor %}"
)


def task(output_type: str) -> ConfigurableTask:
    def rows(*questions: str) -> datasets.Dataset:
        return datasets.Dataset.from_list([{"q": q, "a": "x"} for q in questions])

    return ConfigurableTask(
        config={
            "task": f"cached_{output_type}",
            "custom_dataset": lambda **_: {"train": rows("1+1?", "2+2?"), "test": rows("3+3?", "4+4?\n\nThen?")},
            "fewshot_split": "train",
            "test_split": "test",
            "output_type": output_type,
            "description": "Add.\n\nNever subtract.",
            "doc_to_text": "{{q}}",
            "doc_to_target": "{{a}}",
            **({"doc_to_choice": ["x", "y"]} if output_type == "multiple_choice" else {}),
            "num_fewshot": 2,
            "fewshot_config": {"sampler": "first_n"},
        }
    )


def requests(lm: Any, output_type: str, multiturn: bool) -> list[Any]:
    """What the harness builds, or finds in its cache, with --cache_requests true --apply_chat_template."""
    made = task(output_type)
    made.build_all_requests(
        cache_requests=True,
        apply_chat_template=True,
        fewshot_as_multiturn=multiturn,
        chat_template=lm.apply_chat_template,
        tokenizer_name=lm.tokenizer_name,
    )
    return made.instances


def fairkv(template: str, **arguments: Any) -> FairKV:
    return FairKV(tiny.model(), tokenizer=tiny.tokenizer(template), batch_size=4, **arguments)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cache, "PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("multiturn", [False, True])
@pytest.mark.parametrize("output_type", ["generate_until", "multiple_choice"])
@pytest.mark.parametrize("template", [tiny.CHATML, DROPS, INTO_THE_LAST_TURN], ids=["own", "dropped", "last"])
def test_a_cached_request_has_the_same_context(
    template: str, output_type: str, multiturn: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = fairkv(template), fairkv(template)
    made = [first.job(request).prompt for request in requests(first, output_type, multiturn)]
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(ConfigurableTask, "fewshot_context", None)  # nothing is rendered the second time
    read = requests(second, output_type, multiturn)
    assert [second.job(request).prompt for request in read] == made
    assert all(prompt.segments[0].name in ("system", "user_1") and prompt.context_length > 20 for prompt in made)
    folded = "system prompts folded into the first user turn"
    assert first.run_log.notes[folded] == second.run_log.notes[folded] == (len(made) if template == DROPS else 0)


def test_requests_of_another_model_or_template_are_not_reused(folder: Path) -> None:
    lms = [fairkv(tiny.CHATML), fairkv(DROPS), fairkv(tiny.CHATML, chat_template_args={"date": "today"})]
    lms.append(HFLM(tiny.model(), tokenizer=tiny.tokenizer(), batch_size=4))
    for lm in lms:
        requests(lm, "generate_until", True)
    assert len(list(folder.iterdir())) == len(lms)


def test_the_chat_travels_with_its_text() -> None:
    text = fairkv(tiny.CHATML).apply_chat_template(tiny.chat_doc("Be brief.", "Hello?")["messages"])
    assert isinstance(text, ChatText) and text == text.chat.text
    for copied in (pickle.loads(pickle.dumps(text)), copy.copy(text), copy.deepcopy(text)):
        assert copied == text and copied.chat == text.chat
    read = (
        "import pickle, sys; text = pickle.loads(sys.stdin.buffer.read()); print(text[: text.chat.context_end], end='')"
    )
    made = subprocess.run([sys.executable, "-c", read], input=pickle.dumps(text), capture_output=True, check=True)
    assert made.stdout.decode() == "<|start|>system\nBe brief.<|end|>\n"
