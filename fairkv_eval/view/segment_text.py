"""A prompt's text with its segments visible: in colours on a terminal, between marks in a pipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fairkv_eval.prompts.segments import Segment

if TYPE_CHECKING:
    from rich.text import Text as RichText

# One colour per name, in the order of first appearance; readable on white and on black (Okabe and Ito's palette).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f")


class Piece(NamedTuple):
    """A stretch [start, stop), and the name of its segment; None between segments."""

    name: str | None
    start: int
    stop: int


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour per name. Colours repeat if there are more names than colours."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}


def pieces(segments: Sequence[Segment], stop: int) -> Iterator[Piece]:
    """[0, stop) cut into pieces at the edges of segments. Where segments overlap, the earlier one counts."""
    at = 0
    for name, start, end in sorted(segments, key=lambda segment: segment.start):
        start, end = max(start, at), min(end, stop)
        if end <= start:
            continue
        if start > at:
            yield Piece(None, at, start)
        yield Piece(name, start, end)
        at = end
    if at < stop:
        yield Piece(None, at, stop)


def marked(
    text: str, segments: Sequence[Segment], context_end: int | None, coloured: bool, longest: int = 0
) -> RichText:
    """A prompt's text with its segments marked. Without colours a segment reads ⟦name: …⟧. A ¦ ends the context.

    segments: ranges of characters; context_end: the context's last character, exclusive, or None. A stretch of more
    than ``longest`` characters (0: no bound) loses its middle, and the text says how much.
    """
    from rich.text import Text

    result = Text()
    colour = colours(segment.name for segment in segments)
    end = len(text) if context_end is None else context_end
    for name, start, stop in [*pieces(segments, end), Piece(None, end, len(text))]:
        if start == end and context_end is not None:
            result.append("¦", style="bold reverse")
        words = _shortened(text[start:stop], longest)
        if name is None:
            result.append(words, style="dim")
        elif coloured:
            result.append(words, style=f"bold {colour[name]}")
        else:
            result.append(f"⟦{name}: {words}⟧")
    return result


def _shortened(text: str, longest: int) -> str:
    if not longest or len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} … {len(text) - 2 * half:,} characters … {text[-half:]}"


def legend(names: Iterable[str]) -> RichText:
    """The names of segments in their colours."""
    from rich.text import Text

    return Text("  ").join(Text(f"■ {name}", style=colour) for name, colour in colours(names).items())
