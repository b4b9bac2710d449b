"""Documents of other data sets with `messages` or `segments` of their own run as the harness makes them."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
import tiny
from lm_eval.models.huggingface import HFLM

from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV
from fairkv_eval.prompts.chat_document import MARK, ChatDocument, lacks_mark
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.settings import PromptSettings

OURS = tiny.chat_doc("Be brief. Never tell.", "Hello?", ("a", "Be brief."), ("b", "Never tell."))
WORDS = "Write a summary. A long text about nothing."
# As in the harness's darija_summarization and darija_transliteration, whose prompts are parts of their messages.
FOREIGN: dict[str, dict[str, Any]] = {
    "answered chats": {"messages": [{"role": "user", "content": "A text."}, {"role": "assistant", "content": "It."}]},
    "from and value": {"messages": [{"from": "human", "value": "A text."}, {"from": "gpt", "value": "It."}]},
    "texts": {"messages": ["A text.", "It."]},
    "one text": {"messages": "A text."},
    "times": {"segments": [{"start": 0.0, "end": 1.5}, {"start": 1.5, "end": 3.0}]},
    "both": {"messages": [{"role": "user", "content": WORDS}], "segments": [{"name": "x", "text": "elsewhere"}]},
    "marked otherwise": {MARK: False, "messages": [{"role": "user", "content": "A text."}]},
}


@pytest.fixture(scope="module")
def models() -> tuple[FairKV, HFLM]:
    return tuple(cls(tiny.model(), tokenizer=tiny.tokenizer(), batch_size=4) for cls in (FairKV, HFLM))


@pytest.mark.parametrize("name", FOREIGN)
def test_other_documents_run_as_under_hf(name: str, models: tuple[FairKV, HFLM]) -> None:
    (doc,) = datasets.Dataset.from_list([FOREIGN[name]])
    ours, theirs = (
        lm.generate_until([tiny.generation(WORDS, doc, max_gen_toks=8)], disable_tqdm=True) for lm in models
    )
    assert ours == theirs and ours[0].telemetry["context_tokens"] == len(WORDS) - 1
    assert not ChatDocument.of(doc).messages and not ChatDocument.of(doc).segments
    rendered = models[0].apply_chat_template([{"role": "user", "content": WORDS}])
    assert [s.name for s in models[0].prompter.divide(rendered, doc).segments] == ["user"]


def test_the_mark_survives_a_data_set() -> None:
    (doc,) = datasets.Dataset.from_list([OURS])
    document = ChatDocument.of(doc)
    assert document.messages == OURS["messages"] and document.segments == OURS["segments"]
    text = Prompter(tiny.tokenizer(), PromptSettings()).divide("Be brief. Never tell.Hello?", doc)
    assert text.text.startswith("<|start|>system\nBe brief.") and [s.name for s in text.segments] == ["a", "b"]


def test_a_text_that_another_model_rendered() -> None:
    """The plain text of the document's own chat: its turns are rendered again and compared."""
    prompter = Prompter(tiny.tokenizer(), PromptSettings())
    chat = prompter.render(OURS["messages"])
    text = prompter.divide(chat.text, OURS)
    assert text.context_end == chat.context_end and [s.name for s in text.segments] == ["a", "b"]
    for other in ("Q: 1\nA: 2\n\nHello?", chat.text + "!"):
        with pytest.raises(UsageError, match="need --apply_chat_template"):
            prompter.divide(other, OURS)
    with pytest.raises(UsageError, match="need --apply_chat_template"):
        Prompter(tiny.tokenizer(None), PromptSettings()).divide(chat.text, OURS)


def test_a_forgotten_mark_is_noted() -> None:
    notes: list[str] = []
    prompter = Prompter(tiny.tokenizer(), PromptSettings(), note=notes.append)
    forgotten = {name: value for name, value in OURS.items() if name != MARK}
    assert lacks_mark(forgotten) and not lacks_mark(OURS)
    assert [name for name, doc in FOREIGN.items() if lacks_mark(doc)] == ["both"]
    prompter.divide(WORDS, FOREIGN["answered chats"])
    assert not notes
    assert prompter.divide("Be brief. Never tell.Hello?", forgotten).text == "Be brief. Never tell.Hello?"
    assert notes == ["documents whose messages and segments are ignored, since fairkv_chat is not among their fields"]


@pytest.mark.parametrize("field, entries", [("messages", ["x"]), ("messages", "x"), ("segments", [{"name": "a"}])])
def test_a_marked_document_of_another_form(field: str, entries: Any) -> None:
    with pytest.raises(UsageError, match=rf"has fairkv_chat, but its '{field}' is not a list of .*both of them texts"):
        ChatDocument.of({**OURS, field: entries})
