"""Cases of the tables in tests/bad_inputs: wrong input, words of its message, exit status."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fairkv_eval.cli import main
from fairkv_eval.engine.attach import check_name
from fairkv_eval.errors import DataError, RequestError, UsageError
from fairkv_eval.harness.settings import Settings


@dataclass(frozen=True)
class Case:
    """``run`` gets an empty folder and returns (message, exit status)."""

    name: str
    run: Callable[[Path], tuple[str, int]]
    words: Sequence[str]
    status: int


def arguments(*words: str, **values: Any) -> Case:
    """Model arguments that are refused before a model is loaded."""

    def load(folder: Path) -> None:
        settings = Settings.of(values)
        check_name(settings.attn_implementation)

    name = ",".join(f"{key}={value!r}" for key, value in values.items())
    return call(name, load, *(words or [next(reversed(values))]))


def call(name: str, function: Callable[[Path], object], *words: str) -> Case:
    """A function that raises one of this package's errors, which ends `lm_eval` with status 1."""

    def run(folder: Path) -> tuple[str, int]:
        with pytest.raises((UsageError, DataError, RequestError)) as error:
            function(folder)
        return str(error.value), 1

    return Case(name, run, words, 1)


def command(*argv: str, words: Sequence[str], files: dict[str, str] | None = None) -> Case:
    """A `fairkv` command line, run beside these files; ``{folder}`` in an argument stands for their folder."""

    def run(folder: Path) -> tuple[str, int]:
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            status = main([argument.replace("{folder}", str(folder)) for argument in argv])
        return errors.getvalue(), status

    return Case(" ".join(argv), run, words, 2)
