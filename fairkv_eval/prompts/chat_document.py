"""Documents that are chats: those that carry a mark, as the documents of our own tasks and of declared tasks do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.chat import Message

# A field of a document, true in ours. Other data sets have `messages` and `segments` of their own, in other forms and
# with another meaning: their documents are what the harness makes of them.
MARK = "fairkv_chat"


@dataclass(frozen=True)
class ChatDocument:
    """What a marked document says of its prompt: messages {"role", "content"} and segments {"name", "text"}.

    Both are empty for any other document.
    """

    messages: Sequence[Message] = ()
    segments: Sequence[Message] = ()

    @classmethod
    def of(cls, doc: Any) -> ChatDocument:
        """From a document of the harness. Raises UsageError for a marked one of another form."""
        if not isinstance(doc, Mapping) or not doc.get(MARK):
            return cls()
        return cls(_entries(doc, "messages", "role", "content"), _entries(doc, "segments", "name", "text"))


def lacks_mark(doc: Any) -> bool:
    """Whether a document has messages and segments in the form of ours, but not the mark: perhaps it was forgotten."""
    if not isinstance(doc, Mapping) or MARK in doc or not (doc.get("messages") and doc.get("segments")):
        return False
    return _in_form(doc["messages"], "role", "content") and _in_form(doc["segments"], "name", "text")


def _entries(doc: Mapping[str, Any], field: str, first: str, second: str) -> list[dict[str, str]]:
    entries = doc.get(field) or []
    if not _in_form(entries, first, second):
        raise UsageError(
            f"the document has {MARK}, but its {field!r} is not a list of {{{first}, {second}}}, both of them texts"
        )
    return [{first: entry[first], second: entry[second]} for entry in entries]


def _in_form(entries: Any, first: str, second: str) -> bool:
    return isinstance(entries, (list, tuple)) and all(
        isinstance(entry, Mapping) and isinstance(entry.get(first), str) and isinstance(entry.get(second), str)
        for entry in entries
    )
