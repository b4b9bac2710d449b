"""What must survive an eviction: the entries of ``keep``, the tokens they mark, and the positions they stand for.

An entry is the name of a segment, ``special`` (the tokenizer's special tokens), a position ``5``, a range of positions
``0:12``, ``12:`` or ``:12`` (half open, counted from the context's first token), or ``text:`` and words of the context.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from itertools import accumulate, groupby

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.prompts.segments import Segment

SPECIAL = "special"
TEXT = "text:"

_ALLOWED = "segment names, special, positions such as 5, 0:12 or 12:, or several joined by +"


def parse_keep(keep: object = None, keep_text: object = None) -> tuple[str, ...]:
    """Entries in one form each, in their order and without repeats; those of ``keep_text`` come last.

    keep: entries joined by ``+``, a list of entries, one position (the harness reads ``keep=5`` as a number) or None.
    keep_text: a text, which may hold a ``+``, a list of texts or None. White space around entries and texts does not
    count. Raises UsageError for an empty entry, a negative or empty range, or a value of another type.
    """
    values = keep.split("+") if isinstance(keep, str) else keep if isinstance(keep, (list, tuple)) else [keep]
    entries = [_entry(value) for value in values if keep is not None]
    texts = keep_text if isinstance(keep_text, (list, tuple)) else [keep_text]
    entries += [_text_entry(value) for value in texts if keep_text is not None]
    return tuple(dict.fromkeys(entries))


def literals(entries: Iterable[str]) -> tuple[str, ...]:
    """The texts among the entries."""
    return tuple(entry[len(TEXT) :] for entry in entries if entry.startswith(TEXT))


def _entry(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise UsageError(f"keep={value!r} is not allowed; it takes {_ALLOWED}")
    entry = value.strip()
    if entry.startswith(TEXT):
        return _text_entry(entry[len(TEXT) :])
    if not entry:
        raise UsageError(f"keep has an empty entry; it takes {_ALLOWED}")
    # Two patterns: one with a digit amid the others would take time that grows with the square of a long entry.
    is_range = re.fullmatch(r"[-\d:\s]+", entry) and re.search(r"[\d:]", entry)
    return _range_entry(entry) if is_range else entry


def _range_entry(entry: str) -> str:
    """One form per range: ``7`` for ``007``, ``0:12`` for ``:12``. Raises UsageError for a range of another shape."""
    match = re.fullmatch(r"(\d{0,18})\s*(?:(:)\s*(\d{0,18}))?", entry)
    if match is None or not (match[1] or match[3]):
        raise UsageError(f"keep={entry[:200]!r} is not a range of positions; write 5, 0:12, 12: or :12, from 0 up")
    start = int(match[1] or 0)
    if not match[3]:
        return f"{start}{match[2] or ''}"
    stop = int(match[3])
    if start >= stop:
        raise UsageError(f"keep={entry!r} holds no position: it starts at {start} and ends before {stop}")
    return f"{start}:{stop}"


def _text_entry(value: object) -> str:
    if not isinstance(value, str):
        # The harness's argument parser turns unquoted words into numbers and truth values.
        raise UsageError(f"keep_text={value!r} is not text; put quotes around a number or a truth value")
    if not value.strip():
        raise UsageError("keep_text is empty; it takes a text of the context")
    return TEXT + value.strip()


def mark_special(tokens: Iterable[int], special: Container[int]) -> Iterator[Segment]:
    """Maximal runs of special tokens, as ranges of tokens."""
    at = 0
    for is_special, run in groupby(token in special for token in tokens):
        start, at = at, at + len(list(run))
        if is_special:
            yield Segment(SPECIAL, start, at)


def mark_texts(text: str, texts: Iterable[str], offsets: Sequence[tuple[int, int]]) -> Iterator[Segment]:
    """Every occurrence of each of ``texts`` in ``text``, as ranges of the tokens that touch it.

    ``offsets`` are the characters of each token of the context. A token that holds a part of an occurrence is in its
    range, so that a whitelisted text survives whole.
    """
    # A token without characters goes with the one before it; a BOS that the tokenizer adds goes before all text.
    starts = list(accumulate((start if stop > start else -1 for start, stop in offsets), max))
    stops = list(accumulate((stop for _, stop in offsets), max))
    for literal in texts:
        at = text.find(literal)
        while at >= 0:
            first, last = bisect_right(stops, at), bisect_left(starts, at + len(literal))
            if last > first:
                yield Segment(TEXT + literal, first, last)
            at = text.find(literal, at + 1)


def whitelist(
    segments: Sequence[Segment], marks: Sequence[Segment], entries: Iterable[str], n: int
) -> list[tuple[int, int]]:
    """Ranges of tokens [start, stop) that the entries stand for, in a context of n tokens.

    ``segments`` and ``marks`` are those of the prompt. A range of positions ends where the context does, because
    contexts differ in length. Raises UsageError for a name or a text that is not in the context, and for a position or
    the beginning of a range that lies beyond it.
    """
    ranges = []
    for entry in entries:
        named = [(s.start, s.stop) for s in (*segments, *marks) if s.name == entry]
        if entry.startswith(TEXT) and not named:
            raise UsageError(f"keep: this text is not in the context: {entry[len(TEXT) :][:60]!r}")
        if re.fullmatch(r"\d+(:\d*)?", entry):
            named.append(_positions(entry, n))
        elif not named and entry != SPECIAL:
            raise unknown("segment in keep", entry, {SPECIAL, *(s.name for s in segments)})
        ranges += named
    return ranges


def _positions(entry: str, n: int) -> tuple[int, int]:
    start, colon, stop = entry.partition(":")
    if int(start) >= n:
        raise UsageError(f"keep={entry} begins at position {start}, beyond the context of {n} tokens")
    return int(start), min(n, int(stop) if stop else n if colon else int(start) + 1)
