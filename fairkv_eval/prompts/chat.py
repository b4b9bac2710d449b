"""Chats: messages rendered by a model's template, where their context ends and where the words of each turn are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jinja2

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.turns import MARK, common_prefix, find_turns

Message = Mapping[str, str]
# (messages, add_generation_prompt) -> text. None instead of a boolean: closed turns and nothing after them. False may
# leave the last turn open for a continuation, as the harness asks for.
Template = Callable[[Sequence[Message], bool | None], str]


@dataclass(frozen=True)
class Chat:
    """Messages rendered by a chat template.

    context_end: characters before the last user turn; if that turn holds words of earlier messages too (a system prompt
    in most cases), those before the question. system: whether a system message has words. folded: whether it had to
    move into the first user turn. turns: where the words of each message are, named by its role and number; empty for a
    message without words and for words that the template does not show. plain: rendered without a template.
    """

    text: str
    messages: tuple[Message, ...]
    context_end: int
    system: bool
    folded: bool
    turns: tuple[Segment, ...]
    plain: bool = False

    def shown_turns(self) -> list[tuple[str, Segment]]:
        """Role and words of each message that has some, in the order of the text.

        Raises UsageError for words that the template does not show.
        """
        for message, turn in zip(self.messages, self.turns, strict=True):
            if message["content"].strip() and turn.stop == turn.start:
                words = message["content"].strip()[:60]
                raise UsageError(f"the chat template does not show the words of turn {turn.name!r}: {words!r}")
        pairs = ((m["role"], turn) for m, turn in zip(self.messages, self.turns, strict=True) if turn.stop > turn.start)
        return sorted(pairs, key=lambda pair: pair[1].start)


class ChatText(str):
    """The text of a chat, which carries the chat through the harness and its request cache, into other processes."""

    chat: Chat

    def __new__(cls, chat: Chat) -> ChatText:
        made = super().__new__(cls, chat.text)
        made.chat = chat
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.chat,)


def render(messages: Sequence[Message], template: Template, add_generation_prompt: bool = True) -> Chat:
    """Render messages and find where their context ends.

    If the template has no system role, the system prompt is folded into the first user turn, so that nothing is lost.
    """
    system = any(m["role"] == "system" and m["content"].strip() for m in messages)
    folded = system and not _has_system_role(messages, template, add_generation_prompt)
    if folded:
        template = _folding(template)
    text = template(messages, add_generation_prompt)
    turns = find_turns(messages, text, lambda others: template(others, add_generation_prompt))
    end = _context_end(messages, turns, text, template, add_generation_prompt)
    return Chat(text, tuple(messages), end, system, folded, turns)


def render_plain(messages: Sequence[Message]) -> Chat:
    """Render messages as plain text, for models without a chat template. The context ends before the last user turn."""
    chat = render(messages, lambda others, _: plain_text(others))
    last = _last_user(messages)
    end = len(plain_text([*messages[:last], {"content": ""}])) if last else 0
    return replace(chat, context_end=end, plain=True)


def plain_text(messages: Iterable[Message]) -> str:
    """Messages as plain text, one paragraph per turn."""
    return "\n\n".join(message["content"] for message in messages)


def user_turn(template: Template) -> tuple[str, str] | None:
    """The texts before and after the words of a user turn that follows an answer; the second opens the next answer.

    What follows an answer that is the last and what follows one that another turn follows differ by that turn. The
    answers themselves cannot be compared: some templates show a past answer in another form than the last one. None
    if the template shows no such form.
    """
    answer, question = MARK.format(0), MARK.format(1)
    exchange = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    turn = {"role": "user", "content": question}
    try:
        longer, alone = template([*exchange, turn], True), template([turn], True)
        between, marked, after = longer.rpartition(answer)[2].partition(question)
        closing = template(exchange, None).rpartition(answer)[2]
    except (jinja2.exceptions.TemplateError, IndexError, ValueError):
        return None
    if not marked:
        return None
    if between.startswith(closing):
        return between[len(closing) :], after
    # A chat that ends may be closed in another way than a turn: then what stands before a first turn too.
    header = alone.partition(question)[0]
    shared = common_prefix(between[::-1], header[::-1])
    return (between[len(between) - shared :], after) if shared else None


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


def _folding(template: Template) -> Template:
    return lambda messages, add_generation_prompt: template(_fold(messages), add_generation_prompt)


def _fold(messages: Sequence[Message]) -> Sequence[Message]:
    """The same messages with the system prompt at the head of the first user turn."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest: list[dict[str, str]] = [dict(m) for m in messages if m["role"] != "system"]
    for message in rest:
        if message["role"] == "user":
            message["content"] = f"{system}\n\n{message['content']}"
            return [*rest]
    raise UsageError("the chat template has no system role, and there is no user turn to fold the system prompt into")


def _context_end(
    messages: Sequence[Message], turns: Sequence[Segment], text: str, template: Template, generation: bool
) -> int:
    """Characters of ``text`` before the last user turn, or before its question if it holds earlier words too.

    The messages before that turn, rendered alone, end where it begins; but only if all their words are there: many
    templates put a system prompt into a user turn, some into the last one, and show nothing of it without that turn.
    """
    last = _last_user(messages)
    try:
        before = template(messages[:last], None) if last else ""
    except (jinja2.exceptions.TemplateError, IndexError, ValueError, UsageError):
        before = ""  # a template that renders whole chats only
    if before and text.startswith(before) and len(before) >= max(turn.stop for turn in turns[:last]):
        return len(before)
    # What two chats that differ in the question's words alone have in common, header of the turn included.
    return common_prefix(text, template(_with_content(messages, last, MARK.format(last)), generation))


def _last_user(messages: Sequence[Message]) -> int:
    return max((i for i, m in enumerate(messages) if m["role"] == "user"), default=0)
