"""Results that were left out, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def folded(left_out: Iterable[str], listed_by: str) -> Iterator[str]:
    """One line per reason of entries ``name: reason``, with their number and the first of them. ``listed_by``: what
    lists them all."""
    by_reason: dict[str, dict[str, None]] = {}
    for name, _, reason in (entry.partition(": ") for entry in left_out):
        by_reason.setdefault(reason, {})[name] = None
    for reason, names in by_reason.items():
        more = f" and {len(names) - 1} more ({listed_by} lists them)" if len(names) > 1 else ""
        yield ": ".join(filter(None, (f"{next(iter(names))}{more}", reason)))
