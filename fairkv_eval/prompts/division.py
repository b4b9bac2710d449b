"""A rendered text divided: where its context ends and which segments it has, in characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.chat import Chat, Message
from fairkv_eval.prompts.declared_context import end_of_context
from fairkv_eval.prompts.segments import Segment, chat_shots, locate, paragraphs, sentences, shots
from fairkv_eval.prompts.settings import PromptSettings


class Resolved(NamedTuple):
    """The settings that made a text, without "auto". chat: "on" or "off", scope: "system", "context" or "prompt"."""

    chat: str = "off"
    scope: str = "prompt"
    segments: str = "paragraphs"


@dataclass(frozen=True)
class Text:
    """A prompt as characters: the first ``context_end`` are its context (None: all but the last token).

    folded: the system prompt was moved into the first user turn. declared: the document declares the segments, so each
    of them lies whole in the context. resolved: a description, which decides nothing.
    """

    text: str
    context_end: int | None = None
    segments: tuple[Segment, ...] = ()
    folded: bool = False
    declared: bool = False
    resolved: Resolved = field(default=Resolved(), compare=False)


@dataclass(frozen=True)
class Declaration:
    """What a document declares of its prompt: segments ({"name", "text"} in their order) and the context."""

    segments: Sequence[Message] = ()
    context: str | None = None


NOTHING_DECLARED = Declaration()


def divide_chat(chat: Chat, settings: PromptSettings, declared: Declaration = NOTHING_DECLARED) -> Text:
    """Divide a rendered chat. A declared context goes before the system message.

    What a document declares is searched in the words of the messages, never in those of the template. Raises UsageError
    for a declared context or segment that is not there, and for a segment that does not lie whole in the context.
    """
    system = settings.scope == "system" or (settings.scope == "auto" and chat.system)
    context_end, scope = (chat.context_end, "system") if system else (None, "prompt")
    turns = [(turn.start, turn.stop) for turn in chat.turns]
    if declared.context is not None:
        context_end, scope = end_of_context(chat.text, declared.context, turns), "context"
    source = settings.segments
    if source == "auto":
        source = "task" if declared.segments else "paragraphs" if chat.plain else "turns"
    if source == "turns":
        segments: Iterable[Segment] = [turn for _, turn in chat.shown_turns()]
    elif source == "shots":
        segments = chat_shots(chat.text, chat.shown_turns(), settings.fewshot_delimiter)
    else:
        segments = _segments(source, chat.text, context_end, declared, turns)
    resolved = Resolved("off" if chat.plain else "on", scope, source)
    return _text(chat.text, context_end, segments, resolved, chat.folded)


def divide_text(text: str, settings: PromptSettings, declared: Declaration = NOTHING_DECLARED) -> Text:
    """Divide a plain text, which has no turns.

    Its context ends with the declared context; without one it is everything but the last token, or with scope=system
    and segments=shots everything before the question.
    """
    if settings.segments == "turns":
        raise UsageError(
            "segments=turns needs chat turns, and this prompt is plain text; use segments=paragraphs or shots"
        )
    source = settings.segments
    if source == "auto":
        source = "task" if declared.segments else "paragraphs"
    context_end, scope = None, "prompt"
    if declared.context is not None:
        context_end, scope = end_of_context(text, declared.context), "context"
    if settings.scope == "system":
        if source != "shots":
            raise UsageError(
                "scope=system needs chat turns, and this prompt is plain text; use scope=prompt, or segments=shots "
                "to compress everything before the question"
            )
        context_end = max((shot.start for shot in shots(text, settings.fewshot_delimiter)), default=0)
        scope = "system"
    if source == "shots":
        segments: Iterable[Segment] = shots(text, settings.fewshot_delimiter)
    else:
        segments = _segments(source, text, context_end, declared)
    return _text(text, context_end, segments, Resolved("off", scope, source))


def _segments(
    source: str,
    text: str,
    context_end: int | None,
    declared: Declaration,
    turns: Sequence[tuple[int, int]] | None = None,
) -> Iterable[Segment]:
    if source == "task":
        return locate(text, [(segment["name"], segment["text"]) for segment in declared.segments], turns)
    return (paragraphs if source == "paragraphs" else sentences)(text[:context_end])


def _text(
    text: str, context_end: int | None, segments: Iterable[Segment], resolved: Resolved, folded: bool = False
) -> Text:
    """Text whose segments are cut at the end of the context, and left out after it; declared ones may not be."""
    end = len(text) if context_end is None else context_end
    segments = list(segments)
    if resolved.segments == "task":
        for name, start, stop in segments:
            if stop > end:
                raise UsageError(
                    f"segment {name!r} is in the prompt but not whole in its context, which ends "
                    f"{'before' if start >= end else 'within'} it: {text[start:stop][:60]!r}; see scope="
                )
    cut = (Segment(name, start, min(stop, end)) for name, start, stop in segments)
    inside = tuple(segment for segment in cut if segment.stop > segment.start)
    return Text(text, context_end, inside, folded, resolved.segments == "task", resolved)
