"""Presses by name, and press files: read and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.press import Parameter, Press, taken
from fairkv_eval.eviction.press_digest import digest
from fairkv_eval.files import resource_dir

_FUNCTIONS = ("score", "budget", "replay", "decode")
_KEYS = {"press", "aliases", "summary", "paper", "observes", "base", *_FUNCTIONS, "collects", "parameters"}


def load_press(name: str, base: str | None = None) -> Press | None:
    """The press of this name or alias, or of the YAML file at this path; None for ``none``.

    ``base`` names what a wrapper is to wrap, in the same way.
    """
    press = _find(str(name))  # the harness reads press=3 as a number
    if press is None or press.default_base is None:
        if base is not None:
            wrappers = sorted({p.name for p in built_in_presses().values() if p.default_base})
            raise UsageError(
                f"base={base!r} is for presses that wrap another ({', '.join(wrappers)}), not for {name!r}"
            )
        return press
    wrapped = _find(str(press.default_base if base is None else base))
    if wrapped is None:
        raise UsageError(f"press {press.name!r} cannot wrap 'none'; it needs a press that scores")
    return press.around(wrapped)


def _find(name: str) -> Press | None:
    if name == "none":
        return None
    if name.endswith((".yaml", ".yml")):
        return read_press(Path(name))
    if name.startswith("kvpress:"):
        from fairkv_eval.eviction.kvpress_bridge import bridged_press  # it needs this module's Press

        return bridged_press(name.removeprefix("kvpress:"))
    presses = built_in_presses()
    if name not in presses:
        raise unknown("press", name, [*presses, "none"])
    return presses[name]


@cache
def built_in_presses() -> Mapping[str, Press]:
    """The presses of this package by name and by alias."""
    presses = [read_press(path) for path in sorted(resource_dir("presses").glob("*.yaml"))]
    return MappingProxyType({name: press for press in presses for name in (press.name, *press.aliases)})


def read_press(path: Path) -> Press:
    """Read a press file; UsageError names the file and what is wrong with it."""
    # The harness's own loader resolves `!function`, so a press names its code exactly as a task does.
    from lm_eval.tasks._yaml_loader import load_yaml

    if not path.is_file():
        raise UsageError(f"press file {str(path)!r} does not exist")
    try:
        config = load_yaml(path)
    except (yaml.YAMLError, ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise UsageError(f"press file {str(path)!r} cannot be read: {error}") from error
    try:
        press = _from_config(config)
        return replace(press, sha256=digest(config, _functions(press)))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"press file {str(path)!r}: {error}") from error


def _from_config(config: dict[str, Any]) -> Press:
    for key in config:
        if key not in _KEYS:
            raise unknown("key", key, _KEYS)
    for key in ("press",) if "base" in config else ("press", "score"):
        if key not in config:
            raise UsageError(f"the key {key!r} is missing")
    for key in ("press", "base"):
        if key in config and not (isinstance(config[key], str) and config[key]):
            raise UsageError(f"{key} must be the name of a press, not {config[key]!r}")
    if not isinstance(config.get("collects", False), bool):
        raise UsageError(f"collects must be true or false, not {config['collects']!r}")
    for key in _FUNCTIONS:
        if key in config and not callable(config[key]):
            raise UsageError(f"{key} must name a function ({key}: !function module.function), not {config[key]!r}")
    if not isinstance(config.get("aliases") or [], list):
        raise UsageError(f"aliases must be a list, not {config['aliases']!r}")
    texts = {key: config.get(key, "") for key in ("summary", "paper", "observes")}
    press = Press(
        name=config["press"],
        parameters={name: Parameter(**entry) for name, entry in (config.get("parameters") or {}).items()},
        aliases=tuple(config.get("aliases") or ()),
        default_base=config.get("base"),
        collects=config.get("collects", False),
        score=config.get("score"),
        budget=config.get("budget"),
        replay=config.get("replay"),
        decode=config.get("decode"),
        **texts,
    )
    _check_functions(press)
    return press


def _functions(press: Press) -> list[Callable[..., Any]]:
    return [function for function in (press.score, press.budget, press.replay, press.decode) if function]


def _check_functions(press: Press) -> None:
    """TypeError where YAML and functions disagree about the parameters."""
    defaults = press.configure({})
    functions = _functions(press)
    used = {name for function in functions for name in taken(function, defaults)}
    for name in press.parameters:
        if name not in used:
            raise TypeError(f"no function of the press takes it: unexpected keyword argument {name!r}")
    base: dict[str, Any] = {"base": None} if press.default_base else {}
    given = {press.score: (None, None), press.decode: (None, None), press.budget: (None,), press.replay: (None, None)}
    for function, positional in given.items():
        if function:
            extra = base if function is press.score else {}
            inspect.signature(function).bind(*positional, **extra, **taken(function, defaults))
