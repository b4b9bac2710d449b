"""Turns: where the words of each message are in the text that a template made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import jinja2

from fairkv_eval.prompts.segments import Segment

MARK = "\x00{}\x00"  # stands in for the words of a message, and in no text

Messages = Sequence[Mapping[str, str]]
Render = Callable[[Messages], str]


def find_turns(messages: Messages, text: str, render: Render) -> tuple[Segment, ...]:
    """The words of each message in ``text``, which ``render`` made of them, without white space around them.

    So words that stand elsewhere too, in the template's own text or in another message, are not taken for the
    message's. Empty: a message has no words, or the template does not show them.
    """
    places = _by_marks(messages, text, render)
    if places is None:
        places, at = {}, 0
        for i in (i for i, m in enumerate(messages) if m["content"].strip()):
            places[i] = _by_difference(messages, i, text, at, render)
            at = max(at, places[i][1])
    names = (f"{m['role']}_{i}" if i else m["role"] for i, m in enumerate(messages))
    return tuple(_segment(name, text, *places.get(i, (0, 0))) for i, name in enumerate(names))


def _by_marks(messages: Messages, text: str, render: Render) -> dict[int, tuple[int, int]] | None:
    """Place of each message that has words; None if the template changes words, or shows some more than once.

    The same chat with marks instead of words shows the order of the messages and what the template puts between them.
    """
    marked = [{**m, "content": MARK.format(i)} if m["content"].strip() else m for i, m in enumerate(messages)]
    try:
        pieces = re.split(MARK.format(r"(\d+)"), render(marked))
    except (jinja2.exceptions.TemplateError, ValueError):
        return None
    between, order = pieces[::2], [int(piece) for piece in pieces[1::2]]
    at = len(between[0])
    if sorted(order) != [i for i, m in enumerate(messages) if m["content"].strip()] or text[:at] != between[0]:
        return None
    places = {}
    for i, after in zip(order, between[1:], strict=True):
        content = messages[i]["content"]
        # Templates that trim do it on both sides or on one.
        variants = (content, content.strip(), content.lstrip(), content.rstrip())
        words = next((w for w in variants if text.startswith(w + after, at)), None)
        if words is None:
            return None
        places[i] = (at, at + len(words))
        at += len(words) + len(after)
    return places if at == len(text) else None


def _by_difference(messages: Messages, index: int, text: str, at: int, render: Render) -> tuple[int, int]:
    """What changes in ``text`` if the words of one message do, for templates that show a part of them, or twice.

    If the template refuses other words, they are searched from ``at`` on.
    """
    other = [{**m, "content": MARK.format(i)} if i == index else m for i, m in enumerate(messages)]
    try:
        changed = render(other)
    except (jinja2.exceptions.TemplateError, ValueError):
        words = messages[index]["content"].strip()
        start = text.find(words, at)
        return (start, start + len(words)) if start >= 0 else (0, 0)
    start = common_prefix(text, changed)
    return start, len(text) - common_prefix(text[start:][::-1], changed[start:][::-1])


def common_prefix(a: str, b: str) -> int:
    """How many characters two texts have in common from their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _segment(name: str, text: str, start: int, stop: int) -> Segment:
    words = text[start:stop]
    start += len(words) - len(words.lstrip())
    return Segment(name, start, start + len(words.strip()))
