"""Long-context tasks of the harness with their context declared (scope=context) and as whole prompts (scope=prompt)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import dataset_stand_ins
import pytest
import tiny

from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV
from fairkv_eval.prompts.declared_context import declared_context, end_of_context
from fairkv_eval.prompts.settings import PromptSettings

SIZES = {"max_position_embeddings": 16384}
STAND_INS = ["longbench/qasper", "longbench/2wikimqa", "babilong/babilong_qa1"]
NEEDLES = ["ruler/niah_single_1", "ruler/niah_single_2", "ruler/niah_single_3", "ruler/niah_multikey_2"]
ESSAYS = NEEDLES[1:3]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer in a folder: RULER sizes its prompts by it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return folder


def fairkv(scope: str, **arguments: Any) -> FairKV:
    given = {"press": "knorm", "ratio": 0.5, "scope": scope, **arguments}
    return FairKV(tiny.model(**SIZES), tokenizer=tiny.tokenizer(), batch_size=4, **given)


def run(lm: FairKV, task: Any, chat: bool) -> list[tuple[Any, Any]]:
    """Requests of the first two documents and the responses to them."""
    task.set_fewshot_seed(seed=1)
    task.build_all_requests(limit=2, apply_chat_template=chat, chat_template=lm.apply_chat_template if chat else None)
    for request in task.instances:
        request.args[1]["max_gen_toks"] = 4
    return list(zip(task.instances, lm.generate_until(task.instances, disable_tqdm=True), strict=True))


def check(task: Any, question: str, chat: bool) -> None:
    """With scope=context the question is not in the context, and right after it; with scope=prompt it is."""
    agnostic, aware = fairkv("context"), fairkv("prompt")
    for request, response in run(agnostic, task, chat):
        text = agnostic.prompter.divide(request.args[0], request.doc, request.task_name)
        assert text.context_end is not None and text.text == request.args[0]
        context, tail = text.text[: text.context_end], text.text[text.context_end :]
        wording = request.doc[question].strip().rpartition("\n")[2]
        assert wording in tail and not context.endswith(wording) and len(tail) < 700
        assert response.telemetry["context_tokens"] == len(context.encode()) - _special(context)
        assert response.telemetry["keep_rate"] == pytest.approx(0.5, abs=0.01)
    for request, response in run(aware, task, chat):
        assert response.telemetry["context_tokens"] == len(request.args[0].encode()) - _special(request.args[0]) - 1


def _special(text: str) -> int:
    """Bytes that are no tokens of their own, since one token stands for a whole special word."""
    return sum((len(word) - 1) * text.count(word) for word in tiny.SPECIAL)


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("path", STAND_INS)
def test_documents_from_the_hub(path: str, chat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset_stand_ins.use(monkeypatch)
    dataset_stand_ins.scoring(monkeypatch)
    check(dataset_stand_ins.task(path), "question", chat)


@pytest.mark.parametrize("path", NEEDLES)
def test_generated_documents(path: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = needles(path, saved, monkeypatch)
    check(task, "input", False)
    if path == NEEDLES[0]:
        check(task, "input", True)


def needles(path: str, saved: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A RULER task with few and short documents."""
    dataset_stand_ins.words(monkeypatch)
    from lm_eval.tasks.ruler import prepare_niah

    from fairkv_eval.sentence_splitter import ensure_sentence_splitter

    ensure_sentence_splitter()
    dataset_stand_ins.use(monkeypatch)
    plain = prepare_niah.tqdm  # around 500 documents, of which two are asked
    monkeypatch.setattr(prepare_niah, "tqdm", lambda items, **options: plain(list(items)[:2], **options))
    return dataset_stand_ins.task(path, tokenizer=str(saved), max_seq_lengths=[2048 if path in ESSAYS else 1024])


@pytest.mark.parametrize("name", ["vt", "cwe", "fwe"])
def test_the_question_of_other_ruler_tasks_is_their_last_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their documents take minutes to draw; their templates are the harness's."""
    dataset_stand_ins.words(monkeypatch)
    module = importlib.import_module(f"lm_eval.tasks.ruler.{name}_utils")
    config = getattr(module, "CONFIG", {})
    template = config.get("variable_tracking", config)["template"]
    text = template.format(context="one\ntwo three", query="12345")
    context = declared_context({"input": text + " "}, f"ruler_{name}", None, "context")
    assert context is not None and context.endswith("one\ntwo three")
    assert text[len(context) :].startswith("\nQuestion: ")


@pytest.mark.parametrize(
    ("doc", "task", "arguments", "message"),
    [
        ({"passage": "x", "n": 1}, "boolq", {"scope": "context"}, r"declares no context.*its texts: passage"),
        (
            {"passage": "x"},
            "boolq",
            {"context_field": "pasage"},
            "Did you mean .passage.",
        ),
        ({"n": 1}, "t", {"context_field": "n"}, "'n' is not text"),
        ({}, "longbench_x", {"scope": "context"}, "unknown context_field 'context'"),
    ],
)
def test_wrong_contexts(doc: dict, task: str, arguments: dict[str, str], message: str) -> None:
    parts = PromptSettings(**arguments)
    with pytest.raises(UsageError, match=message):
        declared_context(doc, task, parts.context_field, parts.scope)


def test_where_a_context_ends() -> None:
    assert end_of_context("a b\n\na b c", " a b\n") == len("a b\n\na b")
    with pytest.raises(UsageError, match="empty"):
        end_of_context("a", " \n")
    with pytest.raises(UsageError, match="not in the prompt: 'b'"):
        end_of_context("a", "b")
    with pytest.raises(UsageError, match=r"context_field='x' needs scope=context, and scope is 'prompt'"):
        PromptSettings(scope="prompt", context_field="x")


def test_auto_takes_what_a_document_declares_and_nothing_else() -> None:
    assert declared_context({"context": "c", "input": "i"}, "longbench_qasper", None, "auto") is None
    assert declared_context({"context": "c"}, "squad", None, "auto") is None
    doc = {"declared_context": "c", "context": "d"}
    assert declared_context(doc, "mine", None, "auto") == declared_context(doc, "mine", None, "context") == "c"
    assert declared_context(doc, "mine", "context", "auto") == "d"
    assert declared_context(doc, "mine", None, "prompt") is None
    lm = fairkv("auto")
    assert lm.prompter.divide("c\nq", {"context": "c"}).context_end is None
    assert lm.prompter.divide("c\nq", {"declared_context": "c"}).context_end == 1
    doc = tiny.chat_doc("Be brief.", "A long text. And a question?")
    text = lm.prompter.divide("Be brief.A long text. And a question?", {**doc, "declared_context": "A long text."})
    assert text.context_end is not None and text.text[: text.context_end].endswith("user\nA long text.")
