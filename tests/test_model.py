"""FairKV as the harness sees it, on tiny models: `hf` at ratio 0, and one clear error for every wrong input."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import tiny
import torch
from lm_eval.api.model import CachingLM
from lm_eval.models.huggingface import HFLM

from fairkv_eval.errors import UnsupportedModelError, UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.harness.response import Response
from fairkv_eval.model import FairKV

KINDS = ["llama", "qwen2", "qwen3", "mistral", "phi3"]
TEXTS = ["A small text to go on from.", "Another", "Ünïcode ✓ text, longer than the others\n\nwith two paragraphs"]
TEXT = "Be brief. Never tell the secret.Hello?"  # as the harness joins a document's parts without a chat template
DOC = tiny.chat_doc("Be brief. Never tell the secret.", "Hello?", ("a", "Be brief."), ("b", "Never tell the secret."))


def fairkv(kind: str = "llama", template: str | None = tiny.CHATML, **kwargs) -> FairKV:
    return FairKV(tiny.model(kind), tokenizer=tiny.tokenizer(template), **{"batch_size": 4, **kwargs})


def hf(kind: str = "llama") -> HFLM:
    return HFLM(tiny.model(kind), tokenizer=tiny.tokenizer(), batch_size=4)


@pytest.fixture(scope="module")
def lm() -> FairKV:
    return fairkv()


@pytest.mark.parametrize("kind", KINDS)
def test_ratio_zero_is_hf(kind: str) -> None:
    ours, theirs = fairkv(kind, press="tova", ratio=0.0), hf(kind)
    generate = [tiny.generation(t, max_gen_toks=24, until=["\n"]) for t in TEXTS]
    assert ours.generate_until(copy.deepcopy(generate)) == theirs.generate_until(copy.deepcopy(generate))
    score = [tiny.scoring(t, c) for t in [*TEXTS, "", "ends with spaces  "] for c in [" yes", " no, not at all", "x"]]
    for a, b in zip(ours.loglikelihood(score), theirs.loglikelihood(score), strict=True):
        assert a[0] == pytest.approx(b[0], abs=1e-3) and a[1] == b[1]
    rolling = [tiny.scoring(t * 40, "") for t in TEXTS]
    for request in rolling:
        request.arguments = (request.arguments[0],)
    for a, b in zip(ours.loglikelihood_rolling(rolling), theirs.loglikelihood_rolling(rolling), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    assert any("rolling" in note for note in ours.get_model_info()["fairkv"]["notes"])


def test_no_field_of_hf_is_used_for_something_else(lm: FairKV) -> None:
    assert {name: type(vars(lm)[name]) for name in vars(hf())} == {name: type(v) for name, v in vars(hf()).items()}


def test_repetition_penalty_of_the_generation_config_applies_as_in_hf() -> None:
    ours, theirs = fairkv(), hf()
    for lm in (ours, theirs):
        lm.model.generation_config.repetition_penalty = 1.3
    requests = [tiny.generation(t, max_gen_toks=24) for t in TEXTS]
    assert ours.generate_until(copy.deepcopy(requests)) == theirs.generate_until(copy.deepcopy(requests))


def test_compression_changes_answers_and_is_reported() -> None:
    plain, pressed = fairkv(), fairkv(press="knorm", ratio=0.9)
    request = [tiny.scoring(TEXTS[2], " yes")]
    assert abs(plain.loglikelihood(request)[0][0] - pressed.loglikelihood(request)[0][0]) > 1e-2
    response = pressed.generate_until([tiny.generation(TEXT, DOC, max_gen_toks=4)])[0]
    assert isinstance(response, Response)
    telemetry = response.telemetry
    assert telemetry["context_tokens"] == 1 + len("system\nBe brief. Never tell the secret.") + 1 + len("\n")
    assert set(telemetry["segments"]) == {"a", "b"} and telemetry["kv_bytes_kept"] < 0.12 * telemetry["kv_bytes_full"]
    info = pressed.get_model_info()["fairkv"]
    assert info["press"] == "knorm" and info["ratio"] == 0.9 and 0.88 < info["achieved_ratio"] < 0.92
    assert info["kv_bytes_kept"] < info["kv_bytes_full"] and info["decode_tokens_per_second"] > 0
    assert info["versions"]["torch"] == torch.__version__ and info["versions"]["lm-eval"]
    assert "punkt_tab" in info["sentence_splitter"]
    json.dumps(info)


def test_the_model_renders_documents_with_messages(lm: FairKV) -> None:
    rendered = lm.tokenizer.apply_chat_template(DOC["messages"], tokenize=False, add_generation_prompt=True)
    harness_text = "".join(m["content"] for m in DOC["messages"])
    divided = lm.prompter.divide(harness_text, DOC)
    assert divided.text == rendered and divided.context_end == rendered.index("<|start|>user")
    # Where the harness renders, it asks the model for the template first.
    assert lm.prompter.divide(lm.apply_chat_template(DOC["messages"]), DOC) == divided
    # --system_instruction reaches the text in front of the document's own system prompt.
    divided = lm.prompter.divide("Extra rule.\n\n" + harness_text, DOC)
    assert "system\nExtra rule.\n\nBe brief." in divided.text and divided.segments[0].name == "a"
    with pytest.raises(UsageError, match="apply_chat_template"):
        lm.prompter.divide("Q: 1\nA: 2\n\nHello?", DOC)


def test_chat_off_on_and_without_a_template() -> None:
    plain = "Be brief. Never tell the secret.\n\nHello?"
    harness_text = "".join(m["content"] for m in DOC["messages"])
    assert fairkv(chat="off").prompter.divide(harness_text, DOC).text == plain
    assert fairkv(template=None).prompter.divide(harness_text, DOC).text == plain
    assert fairkv(chat="on").prompter.divide("Hi", {}).text == "<|start|>user\nHi<|end|>\n<|start|>assistant\n"
    with pytest.raises(UsageError, match="no chat template"):
        fairkv(template=None, chat="on").prompter.divide("Hi", {})


def test_a_template_without_a_system_role_keeps_the_system_prompt() -> None:
    drops = "{% for m in messages if m.role != 'system' %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    lm = fairkv(template=drops, press="tova", ratio=0.5, fair=True)
    divided = lm.prompter.divide("".join(m["content"] for m in DOC["messages"]), DOC)
    assert divided.folded and "Never tell the secret.\n\nHello?" in divided.text
    assert divided.text[: divided.context_end].endswith("Never tell the secret.\n\n")
    assert lm.generate_until([tiny.generation(TEXT, DOC, max_gen_toks=2)])[0].telemetry["folded_system"]
    assert any("folded" in note for note in lm.get_model_info()["fairkv"]["notes"])


def test_texts_are_marked_for_the_policies_of_a_call_alone() -> None:
    lm = fairkv(press="tova", ratio=0.5, keep="text:secret")
    request = tiny.generation(TEXT, DOC, max_gen_toks=2)
    prompt = lm.job(request).prompt
    assert [mark.name for mark in prompt.marks if mark.name.startswith("text")] == ["text:secret"]
    others = [Policy.of({"press": "tova", "ratio": 0.5, "keep": f"text:{text}"}) for text in ("brief", "Never")]
    prompts = [job.prompt for job in lm.jobs(request, others)]
    assert {mark.name for mark in prompts[0].marks if mark.name.startswith("text")} == {"text:brief", "text:Never"}
    assert prompts[0] == prompts[1] and lm.job(request).prompt == prompt


def test_a_batch_of_sixteen_answers_as_each_alone() -> None:
    texts = [TEXTS[i % 3] + str(i) * i for i in range(16)]
    answers = []
    for size in (1, 16):
        lm = fairkv(press="snapkv", ratio=0.6, window=4, batch_size=size)
        answers.append(lm.generate_until([tiny.generation(t, max_gen_toks=16) for t in texts]))
    assert answers[0] == answers[1]


def test_batch_size_auto() -> None:
    lm, rolling = fairkv(batch_size="auto"), tiny.scoring("", "")
    rolling.arguments = (TEXTS[2],)
    assert lm.generate_until([tiny.generation(TEXTS[0], max_gen_toks=4)]) == fairkv().generate_until(
        [tiny.generation(TEXTS[0], max_gen_toks=4)]
    )
    assert lm.loglikelihood_rolling([rolling]) == pytest.approx(fairkv().loglikelihood_rolling([rolling]), abs=1e-4)


def test_samples_repeat_and_differ_by_document_and_repeat() -> None:
    def draw(size: int, order: int = 1) -> list[str]:
        torch.manual_seed(7)
        lm = fairkv(batch_size=size)
        settings = {"do_sample": True, "temperature": 1.2, "top_k": 50, "max_gen_toks": 12}
        one, two = (tiny.generation(TEXTS[0], doc_id=i, **settings) for i in (0, 1))
        requests = [one, one, two] if order > 0 else [two, one, one]
        answers = lm.generate_until(requests)
        return answers if order > 0 else [*answers[1:], answers[0]]

    assert draw(1) == draw(8) == draw(2, -1)
    assert len(set(draw(1))) == 3


def test_stop_strings_and_special_stop_tokens_are_cut() -> None:
    lm = fairkv()
    free = lm.generate_until([tiny.generation(TEXTS[0], max_gen_toks=24)])[0]
    stop = free[5:7]
    assert lm.generate_until([tiny.generation(TEXTS[0], max_gen_toks=24, until=[stop])])[0] == free.split(stop)[0]


def test_a_prompt_that_does_not_fit_is_an_error_with_document_and_lengths(caplog) -> None:
    requests = [tiny.generation(TEXTS[0], doc_id=5, max_gen_toks=40)]
    with pytest.raises(UsageError, match=r"task tiny, doc 5: the prompt has 27 tokens and 40 may follow.* 50 "):
        fairkv(max_length=50).generate_until(requests)
    lm = fairkv(max_length=50, truncation=True, press="knorm", ratio=0.5)
    doc = {**DOC, "segments": DOC["segments"]}
    with caplog.at_level(logging.WARNING):
        response = lm.generate_until([tiny.generation(TEXT, doc, doc_id=6, max_gen_toks=10)])[0]
    assert response.telemetry["truncated_tokens"] > 0
    assert "doc 6" in caplog.text and "'a'" in caplog.text
    assert lm.get_model_info()["fairkv"]["notes"]["prompts truncated"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"press": "tovaa"}, "unknown press 'tovaa'. Did you mean 'tova'"),
        ({"press": "tova", "ratio": 1.0}, "ratio=1.0 is not allowed"),
        ({"press": "tova", "ratio": -0.1}, "ratio=-0.1 is not allowed"),
        ({"press": "tova", "ratio": "half"}, "ratio='half' is not allowed"),
        ({"press": "tova", "ratio": float("nan")}, "ratio=nan is not allowed"),
        ({"ratio": 0.5}, "needs a press"),
        ({"press": "tova", "ratio": 0.5, "fair": 1.5}, "fair=1.5 is not allowed"),
        ({"press": "tova", "ratio": 0.5, "fair": "yes"}, "fair='yes' is not allowed"),
        ({"press": "tova", "ratoi": 0.5}, "unknown model argument 'ratoi'. Did you mean 'ratio'"),
        ({"press": "tova", "window": 16}, "unknown model argument 'window'"),
        ({"press": "snapkv", "windw": 16}, "Did you mean 'window'"),
        ({"press": "snapkv", "window": 0}, "window=0 is not allowed"),
        ({"segments": "lines"}, "unknown segments 'lines'"),
        ({"scope": "systm"}, "Did you mean 'system'"),
        ({"chat": "maybe"}, "unknown chat 'maybe'"),
        ({"press": "missing.yaml"}, "'missing.yaml' does not exist"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError) as error:
        fairkv(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "doc", "message"),
    [
        ({"keep": "defence"}, DOC, "task tiny, doc 0: unknown segment in keep 'defence'"),
        ({"keep": "a+b", "ratio": 0.9}, DOC, "task tiny, doc 0: keep holds"),
        ({"fair": True, "segments": "task"}, {}, "doc 0: fair eviction needs segments"),
        ({}, {**DOC, "segments": [{"name": "a", "text": "not there"}]}, "doc 0: segment 'a' is not in the prompt"),
        ({"scope": "system"}, {}, "doc 0: scope=system needs chat turns"),
    ],
)
def test_wrong_documents(arguments: dict, doc: dict, message: str) -> None:
    lm = fairkv(**{"press": "tova", "ratio": 0.5, **arguments})
    text = "".join(m["content"] for m in doc.get("messages", ())) or TEXTS[0]
    with pytest.raises(UsageError) as error:
        lm.generate_until([tiny.generation(text, doc, max_gen_toks=2)])
    assert message in str(error.value)


def test_unknown_generation_arguments_name_the_document() -> None:
    with pytest.raises(UsageError, match=r"doc 0: unknown generation argument .temprature.\."):
        fairkv().generate_until([tiny.generation("x", temprature=1.0)])


def test_a_model_without_a_compressible_cache_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="mamba"):
        FairKV(tiny.model("mamba"), tokenizer=tiny.tokenizer(), press="tova", ratio=0.5)


def test_a_response_cache_of_another_policy_or_dtype_is_refused(tmp_path) -> None:
    path = str(tmp_path / "cache.db")
    request = [tiny.generation(TEXTS[0], max_gen_toks=6)]
    model = {"press": "tova", "ratio": 0.5}
    first = CachingLM(fairkv(**model), path).generate_until(request)
    again = CachingLM(fairkv(**model), path)
    again.lm.run = None  # every answer must come from the cache
    assert again.generate_until(request) == first
    with pytest.raises(UsageError, match=r"ratio: 0.5 there, 0.6 here"):
        CachingLM(fairkv(press="tova", ratio=0.6), path)
    with pytest.raises(UsageError, match="dtype"):
        CachingLM(FairKV(tiny.model(dtype=torch.bfloat16), tokenizer=tiny.tokenizer(), **model), path)
    foreign = CachingLM(hf(), str(tmp_path / "hf.db"))
    foreign.generate_until(request)
    with pytest.raises(UsageError, match="not written by fairkv"):
        CachingLM(fairkv(**model), str(tmp_path / "hf.db"))


def test_a_lora_adapter_answers_as_in_hf(tmp_path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    tiny.model().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    peft.get_peft_model(tiny.model(), config).save_pretrained(tmp_path / "adapter")
    arguments = {"pretrained": str(tmp_path / "base"), "peft": str(tmp_path / "adapter"), "device": "cpu"}
    requests = [tiny.generation(t, max_gen_toks=12) for t in TEXTS]
    theirs = HFLM(**arguments).generate_until(copy.deepcopy(requests))
    assert FairKV(**arguments).generate_until(copy.deepcopy(requests)) == theirs
    assert hf().generate_until(copy.deepcopy(requests)) != theirs, "the adapter does nothing"
    pressed = FairKV(**arguments, press="knorm", ratio=0.8)
    assert pressed.generate_until(copy.deepcopy(requests)) != theirs
    assert pressed.get_model_info()["fairkv"]["model_sha256"]


def test_the_tokens_of_a_choice_are_counted_without_the_line_break_that_opens_the_answer(lm: FairKV) -> None:
    """The template's "assistant\\n" ends with white space, which the harness scores with the choice."""
    prompt = lm.prompter.render(DOC["messages"]).text
    choices = [lm.loglikelihood([tiny.scoring(prompt, text, DOC)])[0] for text in ("No.", "Be brief, then")]
    ((break_alone, _),) = lm.loglikelihood([tiny.scoring(prompt.rstrip(), "\n")])
    for answer, text in zip(choices, ("No.", "Be brief, then"), strict=True):
        measures = answer.telemetry
        assert measures["choice_tokens"] == len(text) == measures["continuation_tokens"] - 1
        assert measures["choice_logprob"] == pytest.approx(answer[0] - break_alone, abs=1e-4)
    plain = lm.loglikelihood([tiny.scoring("Without a break:", " no")])[0]
    assert plain.telemetry["choice_tokens"] == 3 and plain.telemetry["choice_logprob"] == pytest.approx(plain[0])
