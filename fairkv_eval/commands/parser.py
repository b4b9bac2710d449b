"""The options of a sub-command: underscores, no abbreviations, lists joined by commas, anywhere on the line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from fairkv_eval.commands import SUMMARIES
from fairkv_eval.errors import UsageError, unknown


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are UsageErrors that name the nearest option.

    Options may stand before, between and after the other words.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs = {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **kwargs}
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The values of these words."""
        words = list(words)
        self._check_options(words)
        args, rest = self.parse_known_intermixed_args(words)
        if rest:
            raise UsageError(f"{self.prog}: {rest[0]!r} is one word too many; lists are joined by commas, as a,b")
        return args

    def _check_options(self, words: Sequence[str]) -> None:
        """UsageError for an unknown option, which is clearer than one for what is missing because of it."""
        for word in words[: words.index("--")] if "--" in words else words:
            name = word.partition("=")[0]
            if word.startswith("--") and " " not in name and name not in self._option_string_actions:
                raise unknown(f"option of {self.prog!r}", name, self._option_string_actions)


def parser_of(name: str) -> Parser:
    """The parser of a sub-command, whose help ends with its module's EXAMPLES."""
    module = module_of(name)
    parser = Parser(prog=f"fairkv {name}", description=SUMMARIES[name], epilog=_shown(module.EXAMPLES))
    module.add_arguments(parser)
    return parser


def module_of(name: str) -> Any:
    return import_module(f"fairkv_eval.commands.{name}")


def names(text: str) -> list[str]:
    """The type of an option that takes names joined by commas; with ``action="extend"`` it may be repeated."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty part; it takes a,b")
    return parts


def numbers(text: str) -> list[float]:
    """The type of an option that takes numbers joined by commas."""
    try:
        return [float(part) for part in names(text)]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers; it takes 0.5,0.7") from None


def _shown(examples: Sequence[str]) -> str:
    return "\n".join(["examples:", *(f"  {example}" for example in examples)])
