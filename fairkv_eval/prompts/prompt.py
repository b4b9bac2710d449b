"""Text to tokens: where the context of a prompt ends, which segments it has and which tokens `keep` may name.

Everything is found by character offsets in the rendered text and carried over to tokens through the tokenizer's offset
mapping, never by searching for token sub-sequences.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.prompts.chat import Chat, Message
from fairkv_eval.prompts.chat import Template as Template
from fairkv_eval.prompts.chat import plain_text as plain_text
from fairkv_eval.prompts.chat import render as render
from fairkv_eval.prompts.declared_context import end_of_context
from fairkv_eval.prompts.segments import Segment, chat_shots, locate, paragraphs, sentences, shots
from fairkv_eval.prompts.whitelist import mark_special, mark_texts

SEGMENTS = ("auto", "task", "turns", "shots", "paragraphs", "sentences")
SCOPES = ("auto", "system", "context", "prompt")
CHAT = ("auto", "on", "off")

Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]  # text -> tokens, (start, stop) characters of each


@dataclass(frozen=True)
class Text:
    """A prompt as characters: ``context`` of them belong to the context (None: all but the last token)."""

    text: str
    context: int | None = None
    segments: tuple[Segment, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens: the first ``context`` are the context, at least one follows. Segments lie in the context.

    ``marks`` are ranges of the context that `keep` may name and that are no segments: special tokens, texts.
    """

    tokens: tuple[int, ...]
    context: int
    segments: tuple[Segment, ...] = ()
    folded: bool = False
    truncated: int = 0
    marks: tuple[Segment, ...] = ()


@dataclass(frozen=True)
class Parts:
    r"""How a prompt is divided: which part is context (``scope``) and where its segments come from (``segments``);
    and whether documents with messages are rendered with the chat template (``chat``; auto: when the harness did not).

    ``fewshot_delimiter``: where segments=shots divides a text, the one of the task; ``\n`` and ``\t`` as typed on a
    command line are understood. Where a chat holds its shots in the last user turn, scope=system leaves them out of
    the context, and with a system message scope=auto does. ``context_field``: the field of a document that holds its
    context, where the document declares none itself (see `contexts`); a declared context goes before a system message.
    """

    segments: str = "auto"
    scope: str = "auto"
    chat: str = "auto"
    fewshot_delimiter: str = "\n\n"
    context_field: str | None = None

    def __post_init__(self) -> None:
        if self.segments not in SEGMENTS:
            raise unknown("segments", self.segments, SEGMENTS)
        if self.scope not in SCOPES:
            raise unknown("scope", self.scope, SCOPES)
        if self.chat not in CHAT:
            raise unknown("chat", self.chat, CHAT)
        if not isinstance(self.fewshot_delimiter, str) or not self.fewshot_delimiter:
            raise UsageError(f"fewshot_delimiter={self.fewshot_delimiter!r} is not allowed; it takes a text, as \\n\\n")
        delimiter = self.fewshot_delimiter.replace("\\n", "\n").replace("\\t", "\t")
        object.__setattr__(self, "fewshot_delimiter", delimiter)
        if self.context_field is not None and self.scope not in ("auto", "context"):
            raise UsageError(f"context_field={self.context_field!r} needs scope=context, and scope is {self.scope!r}")

    def of_chat(self, chat: Chat, declared: Sequence[Message], passage: str | None = None) -> Text:
        """Divide a rendered chat; ``declared`` are the segments the document names and ``passage`` its context."""
        system = self.scope == "system" or (self.scope == "auto" and chat.system)
        context = chat.context if system else None
        if passage is not None:
            context = end_of_context(chat.text, passage)
        source = self.segments
        if source == "auto":
            source = "task" if declared else "turns"
        return Text(chat.text, context, self._find(source, chat.text, context, declared, chat), chat.folded)

    def of_text(self, text: str, declared: Sequence[Message], passage: str | None = None) -> Text:
        """Divide a plain text, which has no turns: its context is everything up to the end of ``passage``, else
        everything but the last token, or with scope=system and segments=shots everything before the question."""
        if self.segments == "turns":
            raise UsageError(
                "segments=turns needs chat turns, and this prompt is plain text; use segments=paragraphs or shots"
            )
        source = ("task" if declared else "paragraphs") if self.segments == "auto" else self.segments
        context = None if passage is None else end_of_context(text, passage)
        if self.scope == "system":
            if source != "shots":
                raise UsageError(
                    "scope=system needs chat turns, and this prompt is plain text; use scope=prompt, or segments=shots "
                    "to compress everything before the question"
                )
            context = max((shot.start for shot in shots(text, self.fewshot_delimiter)), default=0)
        return Text(text, context, self._find(source, text, context, declared))

    def _find(
        self, source: str, text: str, context: int | None, declared: Sequence[Message], chat: Chat | None = None
    ) -> tuple[Segment, ...]:
        stop = len(text) if context is None else context
        if source == "task":
            found: Iterable[Segment] = locate(text, [(part["name"], part["text"]) for part in declared])
        elif source == "turns" and chat is not None:
            found = chat.located_turns()
        elif source == "shots" and chat is not None:
            found = chat_shots(text, [m["role"] for m in chat.messages], chat.located_turns(), self.fewshot_delimiter)
        elif source == "shots":
            found = shots(text, self.fewshot_delimiter)
        elif source == "paragraphs":
            found = paragraphs(text[:stop])
        else:
            found = sentences(text[:stop])
        inside = (Segment(s.name, s.start, min(s.stop, stop)) for s in found)
        return tuple(s for s in inside if s.stop > s.start)


def tokenize(text: Text, encode: Encode, texts: Sequence[str] = (), special: Container[int] = ()) -> Prompt:
    """A prompt in tokens. The context ends at the last token that lies wholly inside it, and always leaves one token:
    the last, whose output must see the compressed cache. A token belongs to the segment in which it starts.

    ``texts`` and the ``special`` tokens are what its marks are made of.
    """
    tokens, offsets = encode(text.text)
    limit = len(text.text) if text.context is None else text.context
    context = next((i for i, (_, stop) in enumerate(offsets) if stop > limit), len(tokens))
    context = max(0, min(context, len(tokens) - 1))
    # A token without characters goes with the one before it; a BOS that the tokenizer adds goes before all text.
    starts = list(accumulate((start if stop > start else -1 for start, stop in offsets[:context]), max))
    spans = (Segment(name, bisect_left(starts, a), bisect_left(starts, b)) for name, a, b in text.segments)
    segments = [span for span in spans if span.stop > span.start]
    marks = (*mark_special(tokens[:context], special), *mark_texts(text.text, texts, offsets[:context]))
    return Prompt(tuple(tokens), context, tuple(segments), text.folded, marks=marks)


def truncate(prompt: Prompt, longest: int) -> Prompt:
    """Cut tokens from the left until ``longest`` are left, as the harness does; segments and marks shrink or go with
    them."""
    cut = len(prompt.tokens) - longest
    if cut <= 0:
        return prompt
    return replace(
        prompt,
        tokens=prompt.tokens[cut:],
        context=max(0, prompt.context - cut),
        segments=_cut(prompt.segments, cut),
        marks=_cut(prompt.marks, cut),
        truncated=cut,
    )


def _cut(segments: Sequence[Segment], cut: int) -> tuple[Segment, ...]:
    moved = (Segment(s.name, max(0, s.start - cut), s.stop - cut) for s in segments)
    return tuple(s for s in moved if s.stop > s.start)
