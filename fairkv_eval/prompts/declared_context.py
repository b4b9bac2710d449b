"""Declared contexts (``scope=context``): a prompt is compressed up to the end of a text that its document declares.

A document of our own tasks declares its context under DECLARED. The harness's long-context tasks are known by name.
For any other task the model argument ``context_field`` names the field of its documents that holds the context.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fairkv_eval.errors import UsageError, unknown

DECLARED = "declared_context"
# The question of every RULER task is the last line of its `input`.
KNOWN: dict[str, tuple[str, Callable[[str], str]]] = {
    "longbench": ("context", str),
    "infinitebench": ("context", str),
    "babilong": ("input", str),
    "niah": ("input", lambda text: text.rstrip().rpartition("\n")[0]),
    "ruler": ("input", lambda text: text.rstrip().rpartition("\n")[0]),
}


def declared_context(doc: Mapping[str, Any], task: str, field: str | None, scope: str) -> str | None:
    """The context that a document declares; None if it declares none or the scope does not use it.

    ``field`` (context_field) goes before what the document declares, and that before what is known of the task, which
    counts with scope=context only. Raises UsageError if scope=context and nothing is declared, or a field is not text.
    """
    if scope not in ("auto", "context"):
        return None
    if field is not None:
        return _text(doc, field)
    if doc.get(DECLARED) is not None:
        return _text(doc, DECLARED)
    if scope == "auto":
        return None
    family = task.partition("_")[0].rstrip("0123456789")
    if family in KNOWN:
        name, part = KNOWN[family]
        return part(_text(doc, name))
    raise UsageError(
        "scope=context, but the document declares no context; name the field that holds it with context_field= "
        f"(its texts: {', '.join(_texts(doc)) or 'none'})"
    )


def end_of_context(text: str, context: str, turns: Sequence[tuple[int, int]] | None = None) -> int:
    """Where a context ends in a prompt: at its last occurrence, since few-shot examples stand before the document.

    ``turns`` are the ranges of ``text`` to search in, by default the whole text. White space around the context does
    not count, since chat templates trim it. Raises UsageError for a context that is empty or not in the prompt.
    """
    words = context.strip()
    if not words:
        raise UsageError("the declared context is empty")
    start = max(text.rfind(words, a, b) for a, b in (turns or [(0, len(text))]))
    if start < 0:
        raise UsageError(f"the declared context is not in the prompt: {words[:60]!r}")
    return start + len(words)


def _text(doc: Mapping[str, Any], field: str) -> str:
    if field not in doc:
        raise unknown("context_field", field, _texts(doc))
    if not isinstance(doc[field], str):
        raise UsageError(f"the document's {field!r} is not text, so it cannot be its context: {str(doc[field])[:60]}")
    return str(doc[field])


def _texts(doc: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, value in doc.items() if isinstance(value, str))
