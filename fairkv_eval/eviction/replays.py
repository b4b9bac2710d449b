"""What a press may run against the full cache of a context before anything is evicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fairkv_eval.errors import UsageError

# A request to the model -> tokens: a user's turn and the header of the answer, or a paragraph if there are no turns.
Ask = Callable[[str], Sequence[int]]


class ByLength(list[int]):
    """Tokens of a replay whose attention counts per length of the hidden states that their queries come from."""


_REMINDER = 8  # tokens before a chunk with which its answer begins


def kvcompose(context: Sequence[int], ask: Ask) -> list[list[int]]:
    """The context itself, once more (arXiv 2509.05165)."""
    return [[*context]]


def kvzip(context: Sequence[int], ask: Ask, *, chunk: int, variant: str = "original") -> list[list[int]]:
    """A request to repeat the context and then the context itself, in chunks of so many tokens (arXiv 2505.23416).

    Answers after the first begin with the tokens before their chunk. ``variant="plus"``: attention counts by length
    (arXiv 2601.07891).
    """
    request = ask("Repeat the text above word for word.")
    go_on = ask("Repeat a part of the text above word for word, going on from where your answer begins.")
    tails = [[*request, *context[:chunk]]]
    for start in range(chunk, len(context), chunk):
        tails.append([*go_on, *context[max(0, start - _REMINDER) : start + chunk]])
    return [ByLength(tail) for tail in tails] if variant == "plus" else tails


def finch(context: Sequence[int], ask: Ask, *, question: Sequence[int]) -> list[list[int]]:
    """What is asked after the context (arXiv 2408.00167). UsageError if nothing is."""
    if not question:
        raise UsageError("finch scores a context by what follows it, and nothing follows this one")
    return [list(question)]
