"""``fairkv completion``: a script that lets a shell complete commands, options and files."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from fairkv_eval.commands import SUMMARIES
from fairkv_eval.commands.parser import module_of

EXAMPLES = (
    "fairkv completion bash > ~/.local/share/bash-completion/completions/fairkv",
    "fairkv completion zsh > ~/.zfunc/_fairkv",
)
_SHELLS = ("bash", "zsh", "tcsh")
_FILES = ("results", "samples", "source", "sweep", "a", "b")  # arguments that name files or folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=_SHELLS, help="the shell that the script is for")


def run(args: argparse.Namespace) -> None:
    import shtab

    print(shtab.complete(_whole(), args.shell))


class _Marked(argparse.ArgumentParser):
    """A parser whose arguments that name files carry shtab's mark of them."""

    def add_argument(self, *words: Any, **options: Any) -> argparse.Action:
        import shtab

        action = super().add_argument(*words, **options)
        if action.type is Path or action.dest in _FILES or action.dest.endswith("_path"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        return action


def _whole() -> argparse.ArgumentParser:
    """One parser with every command."""
    parser = _Marked(prog="fairkv")
    parser.add_argument("--version", action="store_true")
    commands = parser.add_subparsers()
    for name, summary in SUMMARIES.items():
        module_of(name).add_arguments(commands.add_parser(name, help=summary, description=summary))
    return parser
