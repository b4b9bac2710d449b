"""What a task's metadata may choose among published rows: how many, in which order, without which instructions."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from fairkv_eval.errors import UsageError, unknown

# Everything the builders of documents take from metadata.
NAMES = (
    *("assistant_name", "attack_categories", "attacks", "defense", "defense_file", "gpts_prompt", "num_prompts"),
    *("num_responses", "prompts_per_category", "refusal", "shuffle_seed", "skip_instruction_ids"),
    *("system_prompt_prepend", "system_prompts"),
)
Row = Mapping[str, Any]
T = TypeVar("T")


def check_names(others: Iterable[str]) -> None:
    """Refuse metadata that is one of NAMES misspelt. Other names are not the builder's: model arguments come along."""
    for name in others:
        if get_close_matches(name, NAMES, n=1, cutoff=0.85) and name not in NAMES:
            raise unknown("metadata", name, NAMES)


def number(name: str, value: object) -> int | None:
    """A whole number from 1; None and -1 (the paper's scripts) mean all, and give None."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and (value == -1 or value > 0)):
        return None if value == -1 else value
    raise UsageError(f"{name}={value!r} is not allowed; it takes a whole number from 1, or -1 for all")


def several(what: str, value: object, allowed: Collection[str]) -> list[str]:
    """Names given as a list or as one text; None and "all" mean all that are allowed, in their order."""
    if value is None or value == "all":
        return list(allowed)
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not names:
        raise UsageError(f'{what}={value!r} is not allowed; it takes a name, a list of names, or "all"')
    for name in names:
        if name not in allowed:
            raise unknown(what, name, allowed)
    return [name for name in allowed if name in names]


def shuffled(items: Sequence[T], seed: object) -> list[T]:
    """The items in Python's own shuffled order for a seed; as they are for None."""
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise UsageError(f"shuffle_seed={seed!r} is not allowed; it takes a whole number")
    mixed = list(items)
    if seed is not None:
        random.Random(seed).shuffle(mixed)
    return mixed


def repeated(docs: Iterable[dict[str, Any]], count: object) -> Iterator[dict[str, Any]]:
    """Every document `count` times, one after the other, numbered in its field `response`: sampled responses differ
    from document to document. (The harness's `repeats` is a task's alone, and only the first response is scored.)"""
    times = number("num_responses", count)
    if times is None:
        raise UsageError(f"num_responses={count!r} is not allowed; it takes a whole number from 1")
    return ({**doc, "response": i} for doc in docs for i in range(times))


def without_instructions(rows: Sequence[Row], skipped: object, published: Sequence[Row]) -> list[Row]:
    """The rows that hold none of the instruction ids `skipped` (one text or a list), which are among the published."""
    if skipped is None or skipped in ("", []):
        return list(rows)
    known = sorted({name for row in published for name in row["instruction_id_list"]})
    unwanted = set(several("skip_instruction_ids", skipped, known))
    return [row for row in rows if not unwanted & set(row["instruction_id_list"])]
