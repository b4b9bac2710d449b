"""The harness's own tasks under fairkv: its real YAMLs with stand-in data, plain and chat, few-shot and not."""

from __future__ import annotations

import itertools
from typing import Any

import dataset_stand_ins
import pytest
import tiny
from lm_eval.models.huggingface import HFLM
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from fairkv_eval.model import FairKV

GENERATIVE = ["gsm8k/gsm8k", "triviaqa/default", "ifeval/ifeval", "squad_completion/squad_completion"]
CHOICE = [
    "hellaswag/hellaswag",
    "arc/arc_easy",
    "piqa/piqa",
    "super_glue/boolq/default",
    "winogrande/default",
    "mmlu/default/mmlu_anatomy",
    "truthfulqa/truthfulqa_mc1",
]
TASKS = [*GENERATIVE, *CHOICE, "lambada/lambada_openai", "wikitext/wikitext"]
# The harness itself takes no examples for them.
NO_SHOTS = ["ifeval/ifeval", "truthfulqa/truthfulqa_mc1", "squad_completion/squad_completion"]
# Few-shot examples, chat template, system instruction, examples as turns.
MODES = {
    "plain": (0, False, None, False),
    "few-shot": (2, False, None, False),
    "chat": (2, True, "Be brief.", False),
    "multiturn": (2, True, None, True),
}
# Every mode with one task of each type of output, and every other task in one mode.
EACH_TYPE = ["gsm8k/gsm8k", "hellaswag/hellaswag", "lambada/lambada_openai", "wikitext/wikitext"]
OTHERS = [path for path in TASKS if path not in EACH_TYPE]
SHORT = {*itertools.product(EACH_TYPE, MODES), *zip(OTHERS, itertools.cycle(MODES), strict=False)}
SIZES = {"max_position_embeddings": 8192}


def tokenizer(bos: bool) -> PreTrainedTokenizerFast:
    """The byte tokenizer; with ``bos`` one that adds it, as Llama's does."""
    made = tiny.tokenizer()
    if bos:
        pieces = "<|bos|> $A"
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=pieces, special_tokens=[("<|bos|>", made.convert_tokens_to_ids("<|bos|>"))]
        )
    return made


def fairkv(bos: bool = False, **arguments: Any) -> FairKV:
    return FairKV(tiny.model(**SIZES), tokenizer=tokenizer(bos), batch_size=8, **arguments)


def answers(lm: Any, path: str, mode: str) -> list[Any]:
    """What a model answers the requests of the task's first two documents, as the harness's evaluator asks it."""
    task = dataset_stand_ins.task(path)
    shots, chat, system, multiturn = MODES[mode]
    if task.OUTPUT_TYPE != "loglikelihood_rolling":
        task.set_config(key="num_fewshot", value=0 if path in NO_SHOTS else shots)
    task.set_fewshot_seed(seed=1234)
    task.build_all_requests(
        limit=2,
        system_instruction=system,
        apply_chat_template=chat,
        fewshot_as_multiturn=multiturn,
        chat_template=lm.apply_chat_template if chat else None,
    )
    for request in task.instances:
        if request.request_type == "generate_until":
            request.args[1]["max_gen_toks"] = 8
    (kind,) = {request.request_type for request in task.instances}
    return list(getattr(lm, kind)(task.instances, disable_tqdm=True))


def numbers(answer: Any) -> tuple[float, ...]:
    return tuple(map(float, answer)) if isinstance(answer, tuple) else (float(answer),)


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """One of each, so that the tests load no more."""
    return {
        "hf": HFLM(tiny.model(**SIZES), tokenizer=tokenizer(False), batch_size=8),
        "full": fairkv(),
        "half": fairkv(press="knorm", ratio=0.5, fair=True),
        "hf bos": HFLM(tiny.model(**SIZES), tokenizer=tokenizer(True), batch_size=8),
        "full bos": fairkv(True, press="tova"),
    }


@pytest.mark.parametrize(
    ("path", "mode"),
    [pytest.param(*case, marks=[] if case in SHORT else pytest.mark.long) for case in itertools.product(TASKS, MODES)],
)
def test_ratio_zero_is_hf_and_ratio_half_differs(
    models: dict[str, Any], path: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset_stand_ins.use(monkeypatch)
    by_model = {name: answers(lm, path, mode) for name, lm in models.items()}
    for ours, theirs in (("full", "hf"), ("full bos", "hf bos")):
        assert len(by_model[ours]) == len(by_model[theirs]) > 0
        for a, b in zip(by_model[ours], by_model[theirs], strict=True):
            assert a == b if isinstance(b, str) else numbers(a) == pytest.approx(numbers(b), abs=2e-3)
    full, half = by_model["full"], by_model["half"]
    if not isinstance(full[0], str) and path != "wikitext/wikitext":
        assert all(abs(numbers(a)[0] - numbers(b)[0]) > 1e-3 for a, b in zip(half, full, strict=True))
