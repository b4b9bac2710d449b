"""A divided text as tokens.

Characters are carried over to tokens through the tokenizer's offset mapping, never by searching for token
sub-sequences.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from fairkv_eval.errors import UsageError
from fairkv_eval.prompts.division import Text
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.whitelist import mark_special, mark_texts

Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]  # text -> tokens, (start, stop) characters of each


@dataclass(frozen=True)
class Prompt:
    """A prompt as tokens: the first ``context_length`` are the context, at least one follows.

    ``segments`` are ranges of the context. ``marks`` are ranges of it that `keep` may name and that are not segments:
    special tokens, texts. ``truncated``: tokens that were cut from the left.
    """

    tokens: tuple[int, ...]
    context_length: int
    segments: tuple[Segment, ...] = ()
    folded: bool = False
    truncated: int = 0
    marks: tuple[Segment, ...] = ()


def tokenize(text: Text, encode: Encode, texts: Sequence[str] = (), special: Container[int] = ()) -> Prompt:
    """A prompt as tokens. A token belongs to the segment of its first character that is not white space.

    The context ends with the last token whose words, that is all but white space, lie wholly inside it. The last token
    of a prompt is never part of it, since its output must see the compressed cache; a segment that ends the prompt
    loses it. ``texts`` and the ``special`` tokens are what marks are made of. Raises UsageError for a declared segment
    that shares a token with what follows the context.
    """
    tokens, offsets = encode(text.text)
    words = [_words(text.text, start, stop) for start, stop in offsets]
    limit = len(text.text) if text.context_end is None else text.context_end
    length = next((i for i, (_, stop) in enumerate(words) if stop > limit), len(tokens))
    length = max(0, min(length, len(tokens) - 1))
    # A token without characters goes with the one before it; a BOS that the tokenizer adds goes before all text.
    starts = list(accumulate((start if stop > start else -1 for start, stop in words), max))
    spans = [Segment(name, bisect_left(starts, a), bisect_left(starts, b)) for name, a, b in text.segments]
    if text.declared:
        _check_whole(spans, len(tokens) if text.context_end is None else length, length)
    cut = (Segment(name, start, min(stop, length)) for name, start, stop in spans)
    segments = tuple(span for span in cut if span.stop > span.start)
    marks = (*mark_special(tokens[:length], special), *mark_texts(text.text, texts, offsets[:length]))
    return Prompt(tuple(tokens), length, segments, text.folded, marks=marks)


def _words(text: str, start: int, stop: int) -> tuple[int, int]:
    """A token's characters without the white space around them; a token of white space alone keeps all of it.

    Byte-level and Metaspace tokens begin with the space before a word; some end with line breaks after it.
    """
    token = text[start:stop]
    if not token.strip():
        return start, stop
    return start + len(token) - len(token.lstrip()), start + len(token.rstrip())


def _check_whole(spans: Sequence[Segment], end: int, length: int) -> None:
    """Raise UsageError for a segment that goes beyond token ``end``, or has no token in a context of this length."""
    for name, start, stop in spans:
        if min(stop, length) <= start:
            raise UsageError(f"segment {name!r} has no token of its own in the context of {length} tokens")
        if stop > end:
            raise UsageError(
                f"segment {name!r} is not whole in the context of {length} tokens: its last token also holds what "
                "follows the context; put white space between them"
            )


def truncate(prompt: Prompt, longest: int) -> Prompt:
    """Cut tokens from the left until ``longest`` remain, as the harness does; segments and marks are cut with them."""
    cut = len(prompt.tokens) - longest
    if cut <= 0:
        return prompt
    return replace(
        prompt,
        tokens=prompt.tokens[cut:],
        context_length=max(0, prompt.context_length - cut),
        segments=_shifted(prompt.segments, cut),
        marks=_shifted(prompt.marks, cut),
        truncated=cut,
    )


def _shifted(segments: Sequence[Segment], cut: int) -> tuple[Segment, ...]:
    moved = (Segment(s.name, max(0, s.start - cut), s.stop - cut) for s in segments)
    return tuple(s for s in moved if s.stop > s.start)
