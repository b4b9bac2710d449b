"""Chats: messages rendered by a model's template, where their context ends and where the words of each turn are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jinja2

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.segments import Segment, search

Message = Mapping[str, str]
# (messages, add_generation_prompt) -> text. None instead of a boolean: closed turns and nothing after them. False may
# leave the last turn open for a continuation, as the harness asks for.
Template = Callable[[Sequence[Message], bool | None], str]


@dataclass(frozen=True)
class Chat:
    """Messages rendered by a chat template.

    context_end: characters before the last user turn; with a folded system prompt, before the question. system:
    whether a system message has words. folded: whether it had to move into the first user turn. turns: where the words
    of each message are, named by its role and number; empty if the template changes words.
    """

    text: str
    messages: tuple[Message, ...]
    context_end: int
    system: bool
    folded: bool
    turns: tuple[Segment, ...] = ()

    def located_turns(self) -> Sequence[Segment]:
        """The words of each message; searched one after the other if the template changes some of them."""
        contents = [m["content"] for m in self.messages]
        return self.turns or list(search(self.text, zip(_turn_names(self.messages), contents, strict=True)))


def render(messages: Sequence[Message], template: Template, add_generation_prompt: bool = True) -> Chat:
    """Render messages and find where their context ends.

    If the template has no system role, the system prompt is folded into the first user turn, so that nothing is lost.
    """
    system = any(m["role"] == "system" and m["content"].strip() for m in messages)
    folded = system and not _has_system_role(messages, template, add_generation_prompt)
    shown = _fold(messages) if folded else list(messages)
    text = template(shown, add_generation_prompt)
    context_end = _end_before_last_user(messages, shown, folded, text, template, add_generation_prompt)
    turns = _turn_ranges(shown, text, template, add_generation_prompt)
    return Chat(text, tuple(shown), context_end, system, folded, turns)


def _turn_ranges(
    messages: Sequence[Message], text: str, template: Template, add_generation_prompt: bool
) -> tuple[Segment, ...]:
    """Where the words of each message are in ``text``, without white space around them; () if it cannot be found out.

    The same chat with a mark instead of the words of each message shows what the template puts between them. So words
    that stand elsewhere too, in the template's own text or in another message, are not taken for the message's.
    """
    marks = [f"\x00{i}\x00" for i in range(len(messages))]
    marked = [{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)]
    try:
        rest = template(marked, add_generation_prompt)
    except (jinja2.exceptions.TemplateError, ValueError):
        return ()
    between = []
    for mark in marks:
        piece, separator, rest = rest.partition(mark)
        if not separator:
            return ()
        between.append(piece)
    between.append(rest)

    at = len(between[0])
    turns = []
    for name, message, after in zip(_turn_names(messages), messages, between[1:], strict=True):
        content = message["content"]
        # Templates that trim do it on both sides or on one.
        variants = (content, content.strip(), content.lstrip(), content.rstrip())
        words = next((w for w in variants if text.startswith(w + after, at)), None)
        if words is None:
            return ()
        start = at + len(words) - len(words.lstrip())
        turns.append(Segment(name, start, start + len(words.strip())))
        at += len(words) + len(after)
    return tuple(turns) if text.startswith(between[0]) and at == len(text) else ()


def _has_system_role(messages: Sequence[Message], template: Template, add_generation_prompt: bool) -> bool:
    """Whether the template shows the words of every system message: other words must make another text."""
    try:
        text = template(messages, add_generation_prompt)
        for i, message in enumerate(messages):
            other = _with_content(messages, i, message["content"] + "\x00")
            has_words = message["role"] == "system" and message["content"].strip()
            if has_words and template(other, add_generation_prompt) == text:
                return False
    except jinja2.exceptions.TemplateError:
        return False
    return True


def _with_content(messages: Sequence[Message], index: int, content: str) -> list[Message]:
    return [*messages[:index], {**messages[index], "content": content}, *messages[index + 1 :]]


def _fold(messages: Sequence[Message]) -> Sequence[Message]:
    """The same messages with the system prompt at the head of the first user turn."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest: list[dict[str, str]] = [dict(m) for m in messages if m["role"] != "system"]
    for message in rest:
        if message["role"] == "user":
            message["content"] = f"{system}\n\n{message['content']}"
            return [*rest]
    raise UsageError("the chat template has no system role, and there is no user turn to fold the system prompt into")


def _end_before_last_user(
    messages: Sequence[Message], shown: Sequence[Message], folded: bool, text: str, template: Template, generation: bool
) -> int:
    """Characters of ``text`` before the last user turn, or before its question if the system prompt is in that turn.

    ``shown`` are the messages as rendered.
    """
    users = [i for i, m in enumerate(messages) if m["role"] == "user"]
    if not folded or len(users) > 1:
        last = max((i for i, m in enumerate(shown) if m["role"] == "user"), default=0)
        try:
            before = template(shown[:last], None) if last else ""
            if before and text.startswith(before):
                return len(before)
        except (jinja2.exceptions.TemplateError, IndexError):
            pass  # a template that renders whole chats only
    # What two chats that differ in that turn's words alone have in common, header of the turn included.
    other = _with_content(messages, users[-1] if users else 0, "\x00")
    return _common_prefix(text, template(_fold(other) if folded else other, generation))


def _common_prefix(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _turn_names(messages: Sequence[Message]) -> list[str]:
    return [f"{m['role']}_{i}" if i else m["role"] for i, m in enumerate(messages)]


def plain_text(messages: Sequence[Message]) -> str:
    """Messages as plain text, one paragraph per turn, for models without a chat template."""
    return "\n\n".join(message["content"] for message in messages)
