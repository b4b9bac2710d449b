"""A rendered text divided: where its context ends and which segments it has, in characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.chat import Chat, Message
from fairkv_eval.prompts.declared_context import end_of_context
from fairkv_eval.prompts.segments import Segment, chat_shots, locate, paragraphs, sentences, shots
from fairkv_eval.prompts.settings import PromptSettings


@dataclass(frozen=True)
class Text:
    """A prompt as characters: the first ``context_end`` are its context (None: all but the last token).

    ``folded``: the system prompt was moved into the first user turn.
    """

    text: str
    context_end: int | None = None
    segments: tuple[Segment, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Declaration:
    """What a document declares of its prompt: segments ({"name", "text"} in their order) and the context."""

    segments: Sequence[Message] = ()
    context: str | None = None


NOTHING_DECLARED = Declaration()


def divide_chat(chat: Chat, settings: PromptSettings, declared: Declaration = NOTHING_DECLARED) -> Text:
    """Divide a rendered chat. A declared context goes before the system message."""
    system = settings.scope == "system" or (settings.scope == "auto" and chat.system)
    context_end = chat.context_end if system else None
    if declared.context is not None:
        context_end = end_of_context(chat.text, declared.context)
    source = settings.segments
    if source == "auto":
        source = "task" if declared.segments else "turns"
    if source == "turns":
        segments: Iterable[Segment] = chat.located_turns()
    elif source == "shots":
        roles = [m["role"] for m in chat.messages]
        segments = chat_shots(chat.text, roles, chat.located_turns(), settings.fewshot_delimiter)
    else:
        segments = _segments(source, chat.text, context_end, declared)
    return Text(chat.text, context_end, _inside(segments, chat.text, context_end), chat.folded)


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
    context_end = None if declared.context is None else end_of_context(text, declared.context)
    if settings.scope == "system":
        if source != "shots":
            raise UsageError(
                "scope=system needs chat turns, and this prompt is plain text; use scope=prompt, or segments=shots "
                "to compress everything before the question"
            )
        context_end = max((shot.start for shot in shots(text, settings.fewshot_delimiter)), default=0)
    if source == "shots":
        segments: Iterable[Segment] = shots(text, settings.fewshot_delimiter)
    else:
        segments = _segments(source, text, context_end, declared)
    return Text(text, context_end, _inside(segments, text, context_end))


def _segments(source: str, text: str, context_end: int | None, declared: Declaration) -> Iterable[Segment]:
    if source == "task":
        return locate(text, [(segment["name"], segment["text"]) for segment in declared.segments])
    return (paragraphs if source == "paragraphs" else sentences)(text[:context_end])


def _inside(segments: Iterable[Segment], text: str, context_end: int | None) -> tuple[Segment, ...]:
    """Segments cut at the end of the context; those after it are left out."""
    end = len(text) if context_end is None else context_end
    cut = (Segment(name, start, min(stop, end)) for name, start, stop in segments)
    return tuple(segment for segment in cut if segment.stop > segment.start)
