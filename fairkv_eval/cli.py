"""The ``fairkv`` command: one line in, one exit status out. The sub-commands are in ``commands/``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from fairkv_eval.commands import SUMMARIES
from fairkv_eval.commands.parser import Parser, module_of, parser_of
from fairkv_eval.errors import DataError, RequestError, UsageError, unknown
from fairkv_eval.escaping import for_terminal

_USAGE = "fairkv <command> [options]; fairkv <command> --help shows its options and examples"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status.

    Wrong input or data gives one line on stderr and status 2, a request that failed one and 1, a closed pipe status 1.
    """
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv) or ["--help"])
        sys.stdout.flush()
    except (UsageError, DataError, RequestError) as error:
        print("fairkv:", for_terminal(" ".join(str(error).split())), file=sys.stderr)
        return 1 if isinstance(error, RequestError) else 2
    except BrokenPipeError:
        # The reader of the pipe has seen enough. Without this, Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status or 0


def _run(argv: Sequence[str]) -> int | None:
    name, *words = argv
    if name.startswith("-"):
        _overview().read(argv)
        raise UsageError(f"a command is missing; it takes one of {', '.join(SUMMARIES)}")
    if name not in SUMMARIES:
        raise unknown("command", name, SUMMARIES)
    args = parser_of(name).read(words)
    return module_of(name).run(args)


def _overview() -> Parser:
    """The options of ``fairkv`` itself, and the list of its commands."""
    from fairkv_eval import __version__

    width = max(map(len, SUMMARIES)) + 2
    commands = "\n".join(["commands:", *(f"  {name:{width}}{summary}" for name, summary in SUMMARIES.items())])
    what = "fairkv-eval: evaluation under a compressed KV cache."
    parser = Parser(prog="fairkv", usage=_USAGE, description=what, epilog=commands)
    parser.add_argument("--version", action="version", version=f"fairkv-eval {__version__}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
