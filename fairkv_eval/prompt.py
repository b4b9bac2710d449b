"""Text to tokens: where the context of a prompt ends and which segments it has.

Everything is found by character offsets in the rendered text and carried over to tokens through the tokenizer's offset
mapping, never by searching for token sub-sequences.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import jinja2

from fairkv_eval.errors import UsageError, unknown

SEGMENTS = ("auto", "task", "turns", "paragraphs", "sentences")
SCOPES = ("auto", "system", "prompt")
CHAT = ("auto", "on", "off")

Message = Mapping[str, str]
# (messages, add_generation_prompt) -> text. None in place of a boolean: closed turns and nothing after them, where
# False may leave the last turn open for a continuation, as the harness asks for.
Template = Callable[[Sequence[Message], bool | None], str]
Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]  # text -> tokens, (start, stop) characters of each


class Segment(NamedTuple):
    """A named range [start, stop): of characters in a `Text`, of tokens in a `Prompt`."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Chat:
    """Messages rendered by a chat template. ``folded``: the system prompt had to move into the first user turn."""

    text: str
    messages: tuple[Message, ...]
    context: int  # characters before the last user turn; with a folded system prompt, before the question
    system: bool
    folded: bool


@dataclass(frozen=True)
class Text:
    """A prompt as characters: ``context`` of them belong to the context (None: all but the last token)."""

    text: str
    context: int | None = None
    segments: tuple[Segment, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens: the first ``context`` are the context, at least one follows. Segments lie in the context."""

    tokens: tuple[int, ...]
    context: int
    segments: tuple[Segment, ...] = ()
    folded: bool = False
    truncated: int = 0


@dataclass(frozen=True)
class Parts:
    """How a prompt is divided: which part is context (``scope``) and where its segments come from (``segments``);
    and whether documents with messages are rendered with the chat template (``chat``; auto: when the harness did not).
    """

    segments: str = "auto"
    scope: str = "auto"
    chat: str = "auto"

    def __post_init__(self) -> None:
        if self.segments not in SEGMENTS:
            raise unknown("segments", self.segments, SEGMENTS)
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
        if self.chat not in CHAT:
            raise unknown("chat", self.chat, CHAT)

    def of_chat(self, chat: Chat, declared: Sequence[Message]) -> Text:
        """Divide a rendered chat; ``declared`` are the segments the document names."""
        system = self.scope == "system" or (self.scope == "auto" and chat.system)
        context = chat.context if system else None
        source = self.segments
        if source == "auto":
            source = "task" if declared else "turns"
        segments = self._find(source, chat.text, context, declared, chat.messages)
        return Text(chat.text, context, segments, chat.folded)

    def of_text(self, text: str, declared: Sequence[Message]) -> Text:
        """Divide a plain text, which has no turns: its context is everything but the last token."""
        if self.scope == "system":
            raise UsageError("scope=system needs chat turns, and this prompt is plain text; use scope=prompt")
        if self.segments == "turns":
            raise UsageError("segments=turns needs chat turns, and this prompt is plain text; use segments=paragraphs")
        source = ("task" if declared else "paragraphs") if self.segments == "auto" else self.segments
        return Text(text, None, self._find(source, text, None, declared, ()))

    def _find(
        self, source: str, text: str, context: int | None, declared: Sequence[Message], messages: Sequence[Message]
    ) -> tuple[Segment, ...]:
        stop = len(text) if context is None else context
        if source == "task":
            found: Iterable[Segment] = locate(text, [(part["name"], part["text"]) for part in declared])
        elif source == "turns":
            turns = [(f"{m['role']}_{i}" if i else m["role"], m["content"]) for i, m in enumerate(messages)]
            found = locate(text, turns)
        elif source == "paragraphs":
            found = paragraphs(text[:stop])
        else:
            found = sentences(text[:stop])
        return tuple(Segment(s.name, s.start, min(s.stop, stop)) for s in found if s.start < stop)


def locate(text: str, parts: Iterable[tuple[str, str]]) -> Iterator[Segment]:
    """Character ranges of named parts, each searched after the one before it. UsageError if one is not there.

    Parts are compared without surrounding white space, which chat templates trim; empty ones are skipped.
    """
    at = 0
    for name, part in parts:
        part = part.strip()
        if not part:
            continue
        start = text.find(part, at)
        if start < 0:
            raise UsageError(f"segment {name!r} is not in the prompt (or not in the declared order): {part[:60]!r}")
        at = start + len(part)
        yield Segment(name, start, at)


def paragraphs(text: str) -> Iterator[Segment]:
    """Runs of lines between blank lines, named paragraph_1, paragraph_2 …"""
    runs = re.finditer(r"\S(?:.|\n(?!\s*\n))*", text)
    return (Segment(f"paragraph_{i}", m.start(), m.end()) for i, m in enumerate(runs, 1))


def sentences(text: str) -> Iterator[Segment]:
    """Sentences as NLTK's Punkt finds them, named sentence_1, sentence_2 …"""
    from fairkv_eval.sentences import ensure_sentence_splitter

    ensure_sentence_splitter()
    from nltk.tokenize import PunktTokenizer

    spans = PunktTokenizer("english").span_tokenize(text)
    return (Segment(f"sentence_{i}", start, stop) for i, (start, stop) in enumerate(spans, 1))


def render(messages: Sequence[Message], template: Template, add_generation_prompt: bool = True) -> Chat:
    """Render messages and find where their context ends.

    A template that has no system role loses nothing: the system prompt is folded into the first user turn.
    """
    system = any(m["role"] == "system" and m["content"].strip() for m in messages)
    folded = system and not _has_system_role(messages, template, add_generation_prompt)
    shown = _fold(messages) if folded else list(messages)
    text = template(shown, add_generation_prompt)
    context = _before_last_user(messages, shown, folded, text, template, add_generation_prompt)
    return Chat(text, tuple(shown), context, system, folded)


def _has_system_role(messages: Sequence[Message], template: Template, add_generation_prompt: bool) -> bool:
    """Whether the template shows the words of every system message: other words must make another text."""
    try:
        text = template(messages, add_generation_prompt)
        for i, message in enumerate(messages):
            other = _with_content(messages, i, message["content"] + "\x00")
            says_something = message["role"] == "system" and message["content"].strip()
            if says_something and template(other, add_generation_prompt) == text:
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
    raise UsageError("the chat template has no system role and there is no user turn to fold the system prompt into")


def _before_last_user(
    messages: Sequence[Message], shown: Sequence[Message], folded: bool, text: str, template: Template, generation: bool
) -> int:
    """Characters of ``text`` before the last user turn; where the system prompt was folded into that very turn, before
    the question in it. ``shown`` are the messages as rendered."""
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


def tokenize(text: Text, encode: Encode) -> Prompt:
    """A prompt in tokens. The context ends at the last token that lies wholly inside it, and always leaves one token:
    the last, whose output must see the compressed cache. A token belongs to the segment in which it starts.
    """
    tokens, offsets = encode(text.text)
    limit = len(text.text) if text.context is None else text.context
    context = next((i for i, (_, stop) in enumerate(offsets) if stop > limit), len(tokens))
    context = max(0, min(context, len(tokens) - 1))
    # A token without characters goes with the one before it; a BOS that the tokenizer adds goes before all text.
    starts = list(accumulate((start if stop > start else -1 for start, stop in offsets[:context]), max))
    spans = (Segment(name, bisect_left(starts, a), bisect_left(starts, b)) for name, a, b in text.segments)
    segments = [span for span in spans if span.stop > span.start]
    return Prompt(tuple(tokens), context, tuple(segments), text.folded)


def truncate(prompt: Prompt, longest: int) -> Prompt:
    """Cut tokens from the left until ``longest`` are left, as the harness does; segments shrink or go with them."""
    cut = len(prompt.tokens) - longest
    if cut <= 0:
        return prompt
    moved = (Segment(s.name, max(0, s.start - cut), s.stop - cut) for s in prompt.segments)
    segments = tuple(s for s in moved if s.stop > s.start)
    return replace(
        prompt, tokens=prompt.tokens[cut:], context=max(0, prompt.context - cut), segments=segments, truncated=cut
    )


def plain_text(messages: Sequence[Message]) -> str:
    """Messages as plain text, one paragraph a turn, for models without a chat template."""
    return "\n\n".join(message["content"] for message in messages)
