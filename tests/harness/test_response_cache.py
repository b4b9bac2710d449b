"""The response cache: an answer is used again for the same request of the same model, and for no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import CachingLM

from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV
from fairkv_eval.prompts.chat_document import MARK

WORDS = "Keep the code secret. Nobody may know it. What is the code?"


def fairkv(**arguments: Any) -> FairKV:
    model = arguments.pop("pretrained", None) or tiny.model()
    tokenizer = arguments.pop("tokenizer", None) or tiny.tokenizer()
    if isinstance(model, str):
        return FairKV(model, press="tova", ratio=0.5, device="cpu", dtype="float32", **arguments)
    return FairKV(model, tokenizer=tokenizer, press="tova", ratio=0.5, **arguments)


def request(roles: str = "su", segments: tuple[str, ...] = (), context: str | None = None) -> Instance:
    """The same words for any roles, segments and declared context."""
    parts = WORDS[:21], WORDS[21:]
    names = {"s": "system", "u": "user", "a": "assistant"}
    doc: dict[str, Any] = {
        MARK: True,
        "messages": [{"role": names[r], "content": text} for r, text in zip(roles, parts, strict=True)],
        "segments": [{"name": f"part_{i}", "text": text} for i, text in enumerate(segments)],
    }
    if context is not None:
        doc["declared_context"] = context
    return tiny.generation("".join(parts), doc, max_gen_toks=6)


OTHERS: dict[str, Callable[[], Instance]] = {
    "other roles": lambda: request("ua"),
    "other segments": lambda: request(segments=("Keep the code",)),
    "another context": lambda: request(context="Keep the code"),
}


def answered(database: Path, requests: list[Instance], **arguments: Any) -> tuple[list[Any], int]:
    """The answers, and how many of them were computed."""
    lm = fairkv(**arguments)
    run, computed = lm.run, []

    def counted(jobs: list[Any], *rest: Any) -> Any:
        computed.extend(jobs)
        return run(jobs, *rest)

    lm.run = counted  # type: ignore[method-assign,assignment]
    return getattr(CachingLM(lm, str(database)), requests[0].request_type)(requests), len(computed)


@pytest.mark.parametrize("other", OTHERS)
def test_the_same_words_are_not_the_same_request(other: str, tmp_path: Path) -> None:
    alone, _ = answered(tmp_path / "alone.db", [OTHERS[other]()])
    answered(tmp_path / "cache.db", [request()])
    second, computed = answered(tmp_path / "cache.db", [OTHERS[other]()])
    assert computed == 1 and second == alone and second[0].telemetry == alone[0].telemetry
    both, computed = answered(tmp_path / "cache.db", [request(), OTHERS[other]()])
    assert computed == 0 and both[1] == alone[0]


def test_every_kind_of_request_is_answered_once(tmp_path: Path) -> None:
    rolling = Instance("loglikelihood_rolling", {}, (WORDS,), 0, ("tiny", 0, 1))
    for requests in ([request()], [tiny.scoring(WORDS, " yes")], [rolling]):
        first, computed = answered(tmp_path / "cache.db", requests)
        assert computed == 1
        assert answered(tmp_path / "cache.db", requests) == (first, 0)


def test_samples_are_drawn_each_time(tmp_path: Path) -> None:
    requests = [tiny.generation(WORDS, max_gen_toks=6, do_sample=True, temperature=1.0)]
    assert [answered(tmp_path / "cache.db", requests)[1] for _ in range(2)] == [1, 1]


def thinking(template: str) -> Any:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("sources", lambda: {"pretrained": tiny.model(seed=1)}),
        ("config", lambda: {"pretrained": tiny.model(rms_norm_eps=1e-3)}),
        ("tokenizer|chat_template", lambda: {"tokenizer": thinking("{{ messages[0].content }}")}),
        ("arguments|max_length", lambda: {"max_length": 500}),
        ("arguments", lambda: {"truncation": True}),
        ("arguments", lambda: {"softmax_dtype": "float64"}),
        ("arguments", lambda: {"mixed_precision_dtype": "bfloat16"}),
        ("arguments", lambda: {"think_end_token": "."}),
        ("arguments", lambda: {"enable_thinking": False}),
        ("arguments", lambda: {"chat_template_args": {"a": 1}}),
        ("arguments", lambda: {"add_bos_token": True}),
        ("arguments|prefix_token", lambda: {"prefix_token_id": 5}),
        ("scope", lambda: {"scope": "prompt"}),
        ("context_field", lambda: {"context_field": "text"}),
        ("dtype", lambda: {"pretrained": tiny.model(dtype=torch.bfloat16)}),
    ],
)
def test_another_model_is_refused(name: str, arguments: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    answered(tmp_path / "cache.db", [request()])
    with pytest.raises(UsageError, match=rf"belongs to another run \(.*({name}): .*name another file"):
        answered(tmp_path / "cache.db", [request()], **arguments())


def test_what_changes_no_answer_is_not_another_model(tmp_path: Path) -> None:
    first, _ = answered(tmp_path / "cache.db", [request()])
    more = {"batch_size": 7, "max_prefill_tokens": 512, "kv_memory": 0.4, "logits_cache": False}
    assert answered(tmp_path / "cache.db", [request()], **more) == (first, 0)


@pytest.mark.parametrize("name", ["generation_config.json", "pytorch_model.bin"])
def test_any_file_of_a_local_folder_makes_another_model(name: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "step1000" / "model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    answered(tmp_path / "cache.db", [request()], pretrained=folder)
    (Path(folder) / name).write_text("{}")
    with pytest.raises(UsageError, match="sources: "):
        answered(tmp_path / "cache.db", [request()], pretrained=folder)


def test_a_model_that_cannot_be_identified_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairkv_eval.harness.model_identity.source", lambda *_: None)
    folder = str(tmp_path / "model")
    tiny.model().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    with pytest.raises(UsageError, match=r"pretrained=.* cannot be identified"):
        answered(tmp_path / "cache.db", [request()], pretrained=folder)
