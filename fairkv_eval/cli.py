"""The ``fairkv`` command: one line in, one exit status out. The sub-commands are in ``commands/``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from fairkv_eval.commands import SUMMARIES
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.escaping import for_terminal


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Wrong input gives one line on stderr and status 2, a closed pipe status 1.
    """
    try:
        args = _parse(sys.argv[1:] if argv is None else argv)
        status = _module(args.command).run(args)
        sys.stdout.flush()
    except UsageError as error:
        print("fairkv:", for_terminal(" ".join(str(error).split())), file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the pipe has seen enough. Without this, Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status or 0


class _Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are UsageErrors that name the nearest option."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        parsed, rest = super().parse_known_args(args, namespace)
        if rest:
            raise unknown(f"option of {self.prog!r}", rest[0], self._option_string_actions)
        return parsed, rest


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    from fairkv_eval import __version__

    parser = _Parser(prog="fairkv", description="fairkv-eval: evaluation under a compressed KV cache.")
    parser.add_argument("--version", action="version", version=f"fairkv-eval {__version__}")
    added = parser.add_subparsers(dest="command", metavar="command")
    argv = list(argv) or ["--help"]
    if not argv[0].startswith("-") and argv[0] not in SUMMARIES:
        raise unknown("command", argv[0], SUMMARIES)
    for name, summary in SUMMARIES.items():
        command = added.add_parser(name, help=summary, description=summary)
        if name == argv[0]:
            _module(name).add_arguments(command)
    return parser.parse_args(argv)


def _module(command: str) -> Any:
    return import_module(f"fairkv_eval.commands.{command}")


if __name__ == "__main__":
    sys.exit(main())
