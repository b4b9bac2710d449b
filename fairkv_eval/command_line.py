"""The command line of the harness that gives a result again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

SEEDS = (0, 1234, 1234, 1234)  # of Python, numpy, torch and the few-shot examples: the harness's defaults

_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:+-")


def command_line(
    model: str, model_args: Mapping[str, Any], task: str, seed: Sequence[Any] = SEEDS, **options: Any
) -> str:
    """``lm_eval`` with these arguments, quoted for a shell.

    ``options``: the harness's by name; one that is None, False or empty is left out, as are its default seeds.
    """
    seeds = None if tuple(seed) == SEEDS else ",".join(map(str, seed))
    words = ["lm_eval", "--model", model]
    for name, value in {"model_args": model_args, "tasks": task, **options, "seed": seeds}.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False and value != {}:
            words += [f"--{name}", _text(value)]
    return shlex.join(words)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return _joined(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _joined(arguments: Mapping[str, Any]) -> str:
    """``a=1,b=2`` if the harness reads that as these values; else JSON."""
    if all(map(_is_plain, arguments.values())):
        texts = ((name, str(value).lower() if isinstance(value, bool) else value) for name, value in arguments.items())
        return ",".join(f"{name}={text}" for name, text in texts)
    return json.dumps(arguments, ensure_ascii=False)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return set(value) <= _PLAIN and value.lower() not in ("true", "false", "none") and not _is_number(value)
    return isinstance(value, (int, float))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
