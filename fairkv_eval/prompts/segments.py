"""Segments: named ranges of a prompt, and where a text has them. All ranges here are of characters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fairkv_eval.errors import UsageError


class Segment(NamedTuple):
    """A named range [start, stop): of characters in a `Text`, of tokens in a `Prompt`."""

    name: str
    start: int
    stop: int


def locate(text: str, parts: Iterable[tuple[str, str]]) -> Iterator[Segment]:
    """Ranges of named parts, each searched after the one before it. UsageError if one is not there.

    Parts are compared without surrounding white space, which chat templates trim; empty ones are skipped.
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
    from fairkv_eval.sentence_splitter import ensure_sentence_splitter

    ensure_sentence_splitter()
    from nltk.tokenize import PunktTokenizer

    spans = PunktTokenizer("english").span_tokenize(text)
    return (Segment(f"sentence_{i}", start, stop) for i, (start, stop) in enumerate(spans, 1))


def shots(text: str, delimiter: str) -> list[Segment]:
    """Few-shot examples of a plain text, named shot_1, shot_2 …, and the question, which comes last.

    What stands between two delimiters is a shot, without surrounding white space; blank ones are skipped. A plain
    text does not tell more: a description before the first shot belongs to it, or counts as a shot of its own where
    the delimiter follows it, and a delimiter inside a shot splits it.
    """
    found, at = [], 0
    for piece in text.split(delimiter):
        if words := piece.strip():
            start = at + piece.index(words)
            found.append((start, start + len(words)))
        at += len(piece) + len(delimiter)
    return _name_shots(found)


def chat_shots(text: str, roles: Sequence[str], turns: Sequence[Segment], delimiter: str) -> list[Segment]:
    """Few-shot examples of a chat with these turns, one for each role.

    A user turn with the answer to it is a shot and the last user turn, with an answer that is begun for it, the
    question. Where there is one user turn, it holds all shots and is divided as `shots` does. What comes
    before the first user turn keeps its name.
    """
    users = [i for i, role in enumerate(roles) if role == "user"]
    if not users:
        return list(turns)
    blocks = [(turns[a].start, turns[b - 1].stop) for a, b in zip(users, [*users[1:], len(turns)], strict=True)]
    found = _name_shots(blocks)
    if len(blocks) == 1:
        (begin, end), turn = blocks[0], turns[users[0]]
        inside = shots(text[turn.start : turn.stop], delimiter)
        found = [Segment(name, begin + start, begin + stop) for name, start, stop in inside]
        if found:
            found[-1] = found[-1]._replace(stop=end)
    return [*turns[: users[0]], *found]


def _name_shots(found: Sequence[tuple[int, int]]) -> list[Segment]:
    """All but the last are shots."""
    names = [*(f"shot_{i}" for i in range(1, len(found))), "question"]
    return [Segment(name, start, stop) for name, (start, stop) in zip(names, found, strict=False)]
