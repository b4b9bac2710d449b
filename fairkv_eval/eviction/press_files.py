"""Presses by name, and press files: read and checked."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from fairkv_eval import strict_yaml
from fairkv_eval.errors import UsageError, naming, unknown
from fairkv_eval.eviction.kvpress_bridge import bridged_press
from fairkv_eval.eviction.model_statistics import text
from fairkv_eval.eviction.parameter import STATISTICS, STATISTICS_FILE, Parameter
from fairkv_eval.eviction.press import FUNCTIONS, Press, accepted
from fairkv_eval.eviction.press_digest import digest
from fairkv_eval.eviction.press_facts import DECLARED_COSTS
from fairkv_eval.files import resource_dir

_TEXTS = ("summary", "paper", "observes", "cost")
_KEYS = {
    "press",
    "base",
    "refuses",
    "aliases",
    "parameters",
    "collects",
    "receives",
    "sets_amount",
    *_TEXTS,
    *FUNCTIONS,
}
_ARXIV_NUMBER = re.compile(r"[0-9]{4}\.[0-9]{4,5}(v[0-9]+)?")
_BRIDGE = "kvpress:"


def load_press(name: object, base: object = None) -> Press | None:
    """The press of this name or alias, or of the YAML file at this path; None for ``none``.

    ``base``: what a wrapper wraps, named in the same way. The harness reads press=3 as a number, so any value goes.
    """
    press = _named(str(name))
    if press is not None and press.default_base is not None:
        if base is None and press.default_base == "none":
            raise UsageError(f"press {press.name!r} needs a press that scores: base=<press>, as base=knorm")
        wrapped = _named(str(press.default_base if base is None else base))
        if wrapped is None:
            raise UsageError(f"press {press.name!r} cannot wrap 'none'; it needs a press that scores")
        return press.around(wrapped)
    if base is not None:
        wrappers = sorted({p.name for p in built_in_presses().values() if p.default_base})
        raise UsageError(f"base={base!r} is for presses that wrap another ({', '.join(wrappers)}), not for {name!r}")
    return press


def listed_press(name: str) -> Press | None:
    """The press of this name as a list shows it: a wrapper that must be told what it wraps stands alone."""
    press = _named(name)
    return press if press is None or press.default_base == "none" else load_press(name)


def _named(name: str) -> Press | None:
    if name == "none":
        return None
    if name.endswith((".yaml", ".yml")):
        return _apart(read_press(Path(name)), Path(name))
    if name.startswith(_BRIDGE):
        return bridged_press(name.removeprefix(_BRIDGE))
    presses = built_in_presses()
    if name not in presses:
        raise unknown("press", name, [*presses, "none"])
    return presses[name]


@cache
def built_in_presses() -> Mapping[str, Press]:
    """The presses of this package by name and by alias."""
    presses: dict[str, Press] = {}
    for path in sorted(resource_dir("presses").glob("*.yaml")):
        press = read_press(path)
        for name in (press.name, *press.aliases):
            if name in presses:
                raise UsageError(f"press file {str(path)!r}: {name!r} is the name of press {presses[name].name!r} too")
            presses[name] = press
    return MappingProxyType(presses)


def _apart(press: Press, path: Path) -> Press:
    """A user's press, whose aliases are not names of built-in ones."""
    presses = built_in_presses()
    for alias in press.aliases:
        if alias in presses and presses[alias].name != press.name:
            raise UsageError(
                f"press file {str(path)!r}: the alias {alias!r} is a name of the built-in press {presses[alias].name!r}"
            )
    return press


class _FunctionName(str):
    """What stands after `!function`."""


def read_press(path: Path) -> Press:
    """Read a press file; UsageError names the file and what is wrong with it."""
    # The harness's own loader resolves `!function`, so a press names its code exactly as a task does.
    from lm_eval.tasks._yaml_loader import load_yaml

    if not path.is_file():
        raise UsageError(f"press file {str(path)!r} does not exist")
    try:
        config = strict_yaml.load(path, {"!function": _FunctionName}, texts=_TEXTS)
        resolved = load_yaml(path)
    except UsageError as error:
        raise UsageError(f"press file cannot be read: {error}") from error
    except (yaml.YAMLError, ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise UsageError(f"press file {str(path)!r} cannot be read: {error}") from error
    except (Exception, SystemExit) as error:  # a module may raise anything as it is imported, or exit
        raise UsageError(f"press file {str(path)!r} cannot be read: its code raises {error!r:.200}") from error
    config = {key: resolved.get(key) if isinstance(value, _FunctionName) else value for key, value in config.items()}
    with naming(f"press file {str(path)!r}"):
        _check_keys(config)
        press = _press(config)
        _check_functions(press)
        # Another text has other statistics, and so other scores.
        measured = [text] if press.statistics else []
        return replace(press, sha256=digest(config, [*press.functions.values(), *measured]))


def _press(config: Mapping[str, Any]) -> Press:
    texts = {key: config[key] for key in (*_TEXTS, *FUNCTIONS) if key in config}
    if _ARXIV_NUMBER.fullmatch(texts.get("paper", "")):
        texts["paper"] = f"https://arxiv.org/abs/{texts['paper']}"
    return Press(
        name=config["press"],
        parameters=_all_parameters(config),
        aliases=tuple(config.get("aliases") or ()),
        default_base=config.get("base"),
        refuses=config.get("refuses") or {},
        collects=config.get("collects", False),
        sets_amount=config.get("sets_amount", False),
        receives=config.get("receives", "most"),
        **texts,
    )


def _all_parameters(config: Mapping[str, Any]) -> dict[str, Parameter]:
    parameters = {name: _parameter(name, entry) for name, entry in (config.get("parameters") or {}).items()}
    if STATISTICS in config and STATISTICS in parameters:
        raise UsageError(f"the parameter {STATISTICS!r} is the file of the press's statistics, and needs no entry")
    return parameters | ({STATISTICS: STATISTICS_FILE} if STATISTICS in config else {})


def _parameter(name: str, entry: object) -> Parameter:
    keys = [field.name for field in fields(Parameter)]
    if not isinstance(entry, Mapping) or "default" not in entry:
        raise UsageError(
            f"parameter {name!r} is {entry!r}; it takes a mapping with a default, as {{default: 1, min: 0}}"
        )
    for key in entry:
        if key not in keys:
            raise unknown(f"key of parameter {name!r}", key, keys)
    for key in ("default", "min", "max"):
        value = entry.get(key, 0)
        if key != "default" and (not isinstance(value, (int, float)) or isinstance(value, bool)):
            raise UsageError(f"{key} of parameter {name!r} must be a number, not {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{key} of parameter {name!r} must be a finite number, not {value!r}")
    for key in ("odd", "path"):
        if not isinstance(entry.get(key, False), bool):
            raise UsageError(f"{key} of parameter {name!r} takes true or false, not {entry[key]!r}")
    if not isinstance(entry.get("help", ""), str):
        raise UsageError(f"help of parameter {name!r} takes a text, not {entry['help']!r}")
    _check_kind(name, entry)
    return Parameter(**{**entry, "choices": tuple(entry.get("choices", ()))})


def _check_kind(name: str, entry: Mapping[str, Any]) -> None:
    """UsageError for what numbers have and texts do not, or the other way round."""
    text = isinstance(entry["default"], str)
    for key in ("min", "max", "odd") if text else ("choices", "path"):
        if key in entry:
            kind = "texts" if text else "numbers"
            raise UsageError(f"parameter {name!r} has the default {entry['default']!r}, and {kind} have no {key}")
    choices = entry.get("choices", [entry["default"]])
    if text and not (isinstance(choices, list) and choices and all(isinstance(choice, str) for choice in choices)):
        raise UsageError(f"choices of parameter {name!r} must be a list of texts, not {choices!r}")


def _check_keys(config: Mapping[str, Any]) -> None:
    for key in config:
        if key not in _KEYS:
            raise unknown("key", key, _KEYS)
    for key in ("press",) if "base" in config else ("press", "score"):
        if key not in config:
            raise UsageError(f"the key {key!r} is missing")
    _check_kinds(config)
    for key in ("press", "base"):
        if key in config and not (isinstance(config[key], str) and config[key]):
            raise UsageError(f"{key} must be the name of a press, not {config[key]!r}")
    _check_names([config["press"], *(config.get("aliases") or ())])
    for key in FUNCTIONS:
        if key in config and not callable(config[key]):
            raise UsageError(f"{key} must name a function ({key}: !function module.function), not {config[key]!r}")
        if key in config:
            _check_signature(key, config[key])


def _check_kinds(config: Mapping[str, Any]) -> None:
    for key in ("collects", "sets_amount"):
        if not isinstance(config.get(key, False), bool):
            raise UsageError(f"{key} must be true or false, not {config[key]!r}")
    if "cost" in config and config["cost"] not in DECLARED_COSTS:
        raise unknown("cost", config["cost"], DECLARED_COSTS)
    if config.get("receives", "most") not in ("most", "mean"):
        raise unknown("receives", config["receives"], ("most", "mean"))
    if "receives" in config and "replay" not in config:
        raise UsageError("receives says what keys get from a replay, and the press has no replay")
    for key, kind, allowed in (
        ("aliases", list, "a list"),
        ("parameters", dict, "a mapping"),
        ("refuses", dict, "a mapping of presses to reasons"),
    ):
        if config.get(key) is not None and not isinstance(config[key], kind):
            raise UsageError(f"{key} must be {allowed}, not {config[key]!r}")
    for key in _TEXTS:
        if not isinstance(config.get(key, ""), str):
            raise UsageError(f"{key} must be a text, not {config[key]!r}")


def _check_names(names: Sequence[Any]) -> None:
    """Raise UsageError for a name that press= could not say, or that says something else there."""
    for name in names:
        if not isinstance(name, str) or not name:
            raise UsageError(f"aliases must be names, not {name!r}")
        if name == "none" or name.startswith(_BRIDGE) or name.endswith((".yaml", ".yml")) or set(name) & set(",=\n"):
            raise UsageError(
                f"{name!r} cannot be a press's name: none is the full cache, {_BRIDGE} a press of kvpress, .yaml a "
                "file, and `,` and `=` part arguments"
            )


def _check_signature(key: str, function: Callable[..., Any]) -> None:
    try:
        inspect.signature(function)
    except ValueError as error:
        raise UsageError(f"{key} has no arguments that can be read: {error}") from error


def _check_functions(press: Press) -> None:
    """UsageError if the YAML and the functions disagree about the parameters."""
    defaults = press.configure({})
    used = {name for function in press.functions.values() for name in accepted(function, defaults)}
    for name in press.parameters:
        if name not in used and press.parameters[name] is not STATISTICS_FILE:
            raise UsageError(f"no function of the press takes the parameter {name!r}")
    for key, function in press.functions.items():
        named = {"base": None} if key == "score" and press.default_base else {}
        named |= {"question": None} if key == "replay" and press.replays_question else {}
        try:
            inspect.signature(function).bind(*[None] * FUNCTIONS[key], **named, **accepted(function, defaults))
        except TypeError as error:
            raise UsageError(f"{key} cannot be called as a press calls it: {error}") from error
