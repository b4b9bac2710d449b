"""The keys of a sweep. Most are options of the harness, and each is read into the type that the harness takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError, naming

LARGEST = 10**9

Parser = Callable[[str, Any], Any]  # of a key and its value; raises UsageError for a value that is not allowed


def refused(key: str, value: Any, allowed: str) -> UsageError:
    return UsageError(f"{key}={value!r} is not allowed; it takes {allowed}")


def one_of(kinds: type | tuple[type, ...], allowed: str) -> Parser:
    """A parser of values of these types, described by ``allowed``."""

    def parse(key: str, value: Any) -> Any:
        if not isinstance(value, kinds):
            raise refused(key, value, allowed)
        return value

    return parse


def number(kinds: Any, allowed: str, *, above: float) -> Parser:
    """A parser of numbers above ``above`` and below LARGEST, which NaN and infinities are not."""

    def parse(key: str, value: Any) -> Any:
        if not isinstance(value, kinds) or isinstance(value, bool) or not above < value < LARGEST:
            raise refused(key, value, allowed)
        return value

    return parse


def documents(key: str, value: Any) -> Any:
    """How many documents. A flag is read as a float and a file's number as an integer, and one cell has one id."""
    value = number((int, float), "a number above 0 (below 1: a fraction of the documents)", above=0)(key, value)
    return int(value) if value >= 1 else value


def names(key: str, value: Any) -> tuple[str, ...]:
    """Distinct names, in a list or joined by commas."""
    entries = [entry.strip() for entry in value.split(",")] if isinstance(value, str) else value
    if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
        raise refused(key, value, "a list of names")
    return tuple(dict.fromkeys(entries))


def mapping(key: str, value: Any) -> dict[str, Any]:
    """A mapping, or ``a=1,b=2`` as the harness's command line takes it."""
    if isinstance(value, str):
        from lm_eval.utils import simple_parse_args_string

        if "=" not in value:
            raise refused(key, value, "a mapping, or name=value,name=value")
        value = simple_parse_args_string(value)
    if not isinstance(value, Mapping):
        raise refused(key, value, "a mapping of names to values")
    return dict(value)


def generation(key: str, value: Any) -> dict[str, Any]:
    """Generation arguments, checked by name and value."""
    from lm_eval.models.utils import normalize_gen_kwargs

    from fairkv_eval.engine.sampling import Sampling

    arguments = mapping(key, value)
    settings = dict(normalize_gen_kwargs(dict(arguments)))
    max_tokens = settings.pop("max_gen_toks")
    settings.pop("until", None)
    with naming(key):
        count("max_gen_toks", max_tokens)
        Sampling.of(settings, None, 0)
    return arguments


def path(key: str, value: Any) -> Path:
    return Path(one_of((str, Path), "a folder")(key, value))


def rows(key: str, value: Any) -> int | str:
    return value if value == "auto" else number(int, "a whole number from 1, or auto", above=0)(key, value)


def seeds(key: str, value: Any) -> tuple[int, ...]:
    """The seeds of Python, numpy, torch and the few-shot examples; one number stands for all four."""
    entries = value if isinstance(value, list) else [value] * 4
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 for seed in entries)
    if not whole or len(entries) != 4:
        raise refused(
            key, value, "a whole number from 0 below 2**32, or four (Python, numpy, torch, few-shot examples)"
        )
    return tuple(entries)


flag = one_of(bool, "true or false")
text = one_of(str, "a text")
count = number(int, "a whole number from 1", above=0)
count_or_zero = number(int, "a whole number from 0", above=-1)

PARSERS: dict[str, Parser] = {
    "tasks": names,
    "output_path": path,
    "limit": documents,
    "num_fewshot": count_or_zero,
    "gen_kwargs": generation,
    "metadata": mapping,
    "include_path": names,
    "apply_chat_template": one_of((bool, str), "true, false or the name of a template"),
    "fewshot_as_multiturn": flag,
    "system_instruction": text,
    "confirm_run_unsafe_code": flag,
    "batch_size": rows,
    "device": text,
    "seed": seeds,
    "bootstrap_iters": count_or_zero,
    "fidelity": flag,
    "wandb_args": mapping,
    "wandb_config_args": mapping,
    "hf_hub_log_args": mapping,
}

GRID = ("ratios", "budgets", "budget_bytes", "fair")  # of a sweep or of one of its presses; `grid` reads them
