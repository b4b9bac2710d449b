"""Segments: named ranges of a prompt, and where a text has them. All ranges here are of characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fairkv_eval.errors import UsageError
from fairkv_eval.sentence_splitter import ensure_sentence_splitter


class Segment(NamedTuple):
    """A named range [start, stop): of characters in a `Text`, of tokens in a `Prompt`."""

    name: str
    start: int
    stop: int


def locate(text: str, parts: Iterable[tuple[str, str]]) -> Iterator[Segment]:
    """Ranges of named parts, each searched after the one before it. Raises UsageError for one that is absent.

    White space around a part does not count, since chat templates trim it; empty parts are skipped.
    """
    return (segment for segment in search(text, parts) if segment.stop > segment.start)


def search(text: str, parts: Iterable[tuple[str, str]]) -> Iterator[Segment]:
    """As `locate`, with an empty range for each empty part."""
    at = 0
    for name, part in parts:
        part = part.strip()
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
    ensure_sentence_splitter()
    from nltk.tokenize import PunktTokenizer

    spans = PunktTokenizer("english").span_tokenize(text)
    return (Segment(f"sentence_{i}", start, stop) for i, (start, stop) in enumerate(spans, 1))


def shots(text: str, delimiter: str) -> list[Segment]:
    """Few-shot examples of a plain text, named shot_1, shot_2 …, and the question, which comes last.

    A shot is the text between two delimiters, without surrounding white space; blank ones are skipped. A plain text
    holds no more: a description before the first shot belongs to it, or is a shot of its own if the delimiter follows
    it, and a delimiter inside a shot splits it.
    """
    ranges, at = [], 0
    for piece in text.split(delimiter):
        if words := piece.strip():
            start = at + piece.index(words)
            ranges.append((start, start + len(words)))
        at += len(piece) + len(delimiter)
    return _name_shots(ranges)


def chat_shots(text: str, roles: Sequence[str], turns: Sequence[Segment], delimiter: str) -> list[Segment]:
    """Few-shot examples of a chat with these turns, one turn for each role.

    A user turn with its answer is a shot; the last user turn, with an answer begun for it, is the question. A single
    user turn holds all shots and is divided as `shots` does. Turns before the first user turn keep their names.
    """
    users = [i for i, role in enumerate(roles) if role == "user"]
    if not users:
        return list(turns)
    blocks = [(turns[a].start, turns[b - 1].stop) for a, b in zip(users, [*users[1:], len(turns)], strict=True)]
    named = _name_shots(blocks)
    if len(blocks) == 1:
        (begin, end), turn = blocks[0], turns[users[0]]
        inside = shots(text[turn.start : turn.stop], delimiter)
        named = [Segment(name, begin + start, begin + stop) for name, start, stop in inside]
        if named:
            named[-1] = named[-1]._replace(stop=end)
    return [*turns[: users[0]], *named]


def _name_shots(ranges: Sequence[tuple[int, int]]) -> list[Segment]:
    """Shots but for the last range, which is the question."""
    names = [*(f"shot_{i}" for i in range(1, len(ranges))), "question"]
    return [Segment(name, start, stop) for name, (start, stop) in zip(names, ranges, strict=False)]
