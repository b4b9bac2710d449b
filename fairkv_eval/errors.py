"""Errors that a person can act on: they name the value, what is allowed and the nearest match."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

_READABLE = 200  # names that a message can list
_LONGEST = 200  # characters of a wrong value that it shows


class UsageError(ValueError):
    """Wrong input: a model argument, a press, a segment name, a prompt that does not fit. The message is for users."""


class UnsupportedModelError(UsageError):
    """A model whose attention this package would run wrong. It is refused by name when it is loaded."""


class RequestError(RuntimeError):
    """A request that failed. The message names its task and document; no request is dropped silently."""


class DataError(RuntimeError):
    """A file of data is missing, damaged or another one than expected. The message is for users."""


class Interrupted(SystemExit, KeyboardInterrupt):
    """Raised on Ctrl-C once progress was reported.

    A command exits with status 130 and no traceback; Python callers can still catch KeyboardInterrupt.
    """


@contextmanager
def interruptible(progress: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C print the progress to stderr and raise `Interrupted`."""
    try:
        yield
    except KeyboardInterrupt:
        print(progress(), file=sys.stderr, flush=True)
        raise Interrupted(130) from None


@contextmanager
def naming(label: str, doing: str = "") -> Iterator[None]:
    """Begin the message of every error with ``label``: what it is about.

    A UsageError or DataError keeps its type. Any other becomes a RequestError whose message says, with ``doing``, what
    was being done.
    """
    try:
        yield
    except DataError as error:
        raise DataError(f"{label}: {error}") from error
    except UsageError as error:
        raise UsageError(f"{label}: {error}") from error
    except Exception as error:
        raise RequestError(f"{label}: {doing}{error}") from error


def first_line(error: Exception) -> str:
    """The first line of an error of others; its type if it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def unknown(what: str, value: object, allowed: Iterable[str], listed_by: str = "") -> UsageError:
    """The error for a name that does not exist: it gives the nearest match, then everything allowed.

    If that is more than anyone would read, it gives the nearest names and ``listed_by``, the command that lists all.
    """
    names = sorted(allowed)
    shown = repr(value) if len(repr(value)) <= _LONGEST else f"{repr(value)[:_LONGEST]}…"
    near = get_close_matches(str(value)[:_LONGEST], names, n=1 if len(names) <= _READABLE else 5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    if len(names) <= _READABLE:
        return UsageError(f"unknown {what} {shown}.{hint} Allowed: {', '.join(names) or 'none'}.")
    others = f" Also near: {', '.join(near[1:])}." if near[1:] else ""
    all_of_them = f"; {listed_by!r} lists them" if listed_by else ""
    return UsageError(f"unknown {what} {shown}.{hint}{others} {len(names):,} names are allowed{all_of_them}.")
