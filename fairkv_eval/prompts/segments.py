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


def locate(
    text: str, parts: Iterable[tuple[str, str]], turns: Sequence[tuple[int, int]] | None = None
) -> list[Segment]:
    """Ranges of named parts, each searched after the one before it, in the order of the text.

    ``turns`` are the ranges of ``text`` to search in, one after the other: a part lies in one of them. By default it is
    the whole text. White space around a part does not count, since chat templates trim it; empty parts are skipped.
    Raises UsageError for a part that is absent.
    """
    segments: list[Segment] = []
    rest = [(0, len(text))] if turns is None else list(turns)
    for name, part in parts:
        if not (part := part.strip()):
            continue
        places = ((i, text.find(part, start, stop)) for i, (start, stop) in enumerate(rest))
        turn, start = next(((i, start) for i, start in places if start >= 0), (0, -1))
        if start < 0:
            raise UsageError(f"segment {name!r} is not in the prompt (or not in the declared order): {part[:60]!r}")
        segments.append(Segment(name, start, start + len(part)))
        rest = [(start + len(part), rest[turn][1]), *rest[turn + 1 :]]
    return sorted(segments, key=lambda segment: segment.start)


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


def chat_shots(text: str, turns: Sequence[tuple[str, Segment]], delimiter: str) -> list[Segment]:
    """Few-shot examples of a chat with these turns (role and range), which stand in the order of the text.

    A user turn with its answer is a shot; the last user turn, with an answer begun for it, is the question. A single
    user turn holds all shots and is divided as `shots` does. A system turn, and what comes before the first user turn,
    keep their names.
    """
    others: list[Segment] = []
    blocks: list[list[Segment]] = []
    for role, turn in turns:
        if role == "user":
            blocks.append([turn])
        elif role == "system" or not blocks:
            others.append(turn)
        else:
            blocks[-1].append(turn)
    named = _name_shots([(block[0].start, block[-1].stop) for block in blocks])
    if len(blocks) == 1:
        begin, end = blocks[0][0].start, blocks[0][0].stop
        named = [Segment(name, begin + a, begin + b) for name, a, b in shots(text[begin:end], delimiter)]
        if named:
            named[-1] = named[-1]._replace(stop=blocks[0][-1].stop)
    return sorted([*others, *named], key=lambda segment: segment.start)


def _name_shots(ranges: Sequence[tuple[int, int]]) -> list[Segment]:
    """Shots but for the last range, which is the question."""
    names = [*(f"shot_{i}" for i in range(1, len(ranges))), "question"]
    return [Segment(name, start, stop) for name, (start, stop) in zip(names, ranges, strict=False)]
