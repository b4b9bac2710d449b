"""How a run ends that cannot go on: with one line, and no traceback of the harness before it."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import TracebackType

from fairkv_eval.errors import DataError, RequestError, UsageError


class OneLineErrors:
    """An excepthook that prints this package's errors, and Ctrl-C, as one line; others go to the hook before it.

    The status of the process stays Python's: 1, and 130 in a shell after Ctrl-C.
    """

    def __init__(self) -> None:
        self.other = sys.excepthook

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, (UsageError, RequestError, DataError)):
            print("fairkv:", " ".join(str(error).split()), file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print("fairkv: interrupted", file=sys.stderr)
        else:
            self.other(kind, error, traceback)


def end_with_one_line() -> None:
    """Print errors as one line from here on, and let Ctrl-C end the workers of a pool without words.

    Workers are forked by the harness when it bootstraps standard errors. A worker that is interrupted dies with the
    lock of the pool's queue, and the pool waits for it; the first process hears Ctrl-C as well and ends them all.
    """
    if isinstance(sys.excepthook, OneLineErrors):
        return
    sys.excepthook = OneLineErrors()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_ignore_interrupts)


def _ignore_interrupts() -> None:
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)
