"""Presses: which rule scores KV pairs, what it can be told, and how budgets are divided over layers and heads.

A press is a YAML file: a name, the functions that make it, and its parameters. Those of this package are in
``presses/``; a user's own is a file anywhere, named by its path.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from torch import Tensor

from fairkv_eval.budgets import EVEN, Division
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.files import resource_dir
from fairkv_eval.layer import Layer, Span
from fairkv_eval.press_digest import digest

_FUNCTIONS = ("score", "budget", "replay", "decode")
_KEYS = {"press", "aliases", "summary", "paper", "observes", "base", *_FUNCTIONS, "collects", "parameters"}

Parameters = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Parameter:
    """One value a press can be told: default, bounds (inclusive; ``odd`` where a centre is needed), and its use.

    It takes true or false where the default is one of them, whole numbers where the default is whole.
    """

    default: float
    min: float = -math.inf
    max: float = math.inf
    odd: bool = False
    help: str = ""

    def check(self, press: str, name: str, value: Any) -> float:
        """The value, or an error that names press, parameter, value and bounds."""
        if isinstance(self.default, bool):
            allowed, fits = "true or false", isinstance(value, bool)
        else:
            whole = isinstance(self.default, int)
            kind = int if whole else (int, float)
            allowed = f"{'an odd whole' if self.odd else 'a whole' if whole else 'a'} number"
            allowed += f" from {self.min:g}" if self.min > -math.inf else ""
            allowed += f" to {self.max:g}" if self.max < math.inf else ""
            fits = isinstance(value, kind) and not isinstance(value, bool) and self.min <= value <= self.max
            fits = fits and not (self.odd and value % 2 == 0)
        if not fits:
            raise UsageError(
                f"press {press!r}: {name}={value!r} is not allowed; it takes {allowed} (default {self.default})"
            )
        return value


@dataclass(frozen=True)
class Press:
    """A scoring rule by name: ``score(layer, span, **parameters) -> [kv_heads, len(span)]`` (see `scores`).

    default_base: the press a wrapper wraps unless told otherwise; ``base``: the one it does. A wrapper's rule is also
    given ``base``, the wrapped scores as a function of the span; without a rule of its own it scores as its base does.
    budget: how budgets differ by layer or head (see `budgets`). replay: what runs against the full cache before
    anything is evicted (see `replay`). decode: the rule for pairs in the cache while decoding, ``collects`` whether it
    needs the attention they have received so far (see `rolling`). ``sha256``: see `press_digest`; an
    edited rule has another. Presses are equal if their names, bases and digests are.
    """

    name: str
    score: Callable[..., Tensor] | None = field(default=None, compare=False)
    parameters: Mapping[str, Parameter] = field(default_factory=dict, compare=False)
    aliases: tuple[str, ...] = field(default=(), compare=False)
    summary: str = field(default="", compare=False)
    paper: str = field(default="", compare=False)
    observes: str = field(default="", compare=False)
    sha256: str = ""
    default_base: str | None = None
    base: Press | None = None
    budget: Callable[..., Division] | None = field(default=None, compare=False)
    replay: Callable[..., list[list[int]]] | None = field(default=None, compare=False)
    decode: Callable[..., Tensor] | None = field(default=None, compare=False)
    collects: bool = field(default=False, compare=False)

    def configure(self, given: Mapping[str, object]) -> Parameters:
        """All parameters with their values, by name: the defaults, overridden by what is given and checked."""
        for name in given:
            if name not in self.parameters:
                raise unknown(f"parameter of press {self.name!r}", name, self.parameters)
        return tuple((k, p.check(self.name, k, given.get(k, p.default))) for k, p in self.parameters.items())

    def around(self, base: Press) -> Press:
        """This wrapper with what it wraps, whose parameters become its own."""
        if base.base or base.default_base:
            raise UsageError(f"press {self.name!r} cannot wrap {base.name!r}, which is a wrapper itself")
        if base.replay:
            raise UsageError(f"press {self.name!r} cannot wrap {base.name!r}: it scores by a replay, after the prefill")
        both = sorted(self.parameters.keys() & base.parameters)
        if both:
            raise UsageError(f"press {self.name!r} cannot wrap {base.name!r}: both have a parameter {both[0]!r}")
        digest = hashlib.sha256((self.sha256 + base.sha256).encode()).hexdigest()
        parameters = {**self.parameters, **base.parameters}
        return replace(self, base=base, default_base=None, parameters=parameters, sha256=digest)

    def scorer(self, layer: Layer, parameters: Parameters) -> Callable[[Span], Tensor]:
        """The rule on one layer, a function of the span."""
        if self.base is None:
            assert self.score is not None
            return partial(self.score, layer, **taken(self.score, parameters))
        base = self.base.scorer(layer, parameters)
        return base if self.score is None else partial(self.score, layer, base=base, **taken(self.score, parameters))

    def division(self, parameters: Parameters) -> Division:
        """How budgets differ by layer and head."""
        division = EVEN if self.base is None else self.base.division(parameters)
        return division if self.budget is None else self.budget(division, **taken(self.budget, parameters))


def taken(function: Callable, parameters: Parameters) -> dict[str, float]:
    """Those of a press's parameters that one of its functions takes."""
    names = inspect.signature(function).parameters
    return {name: value for name, value in parameters if name in names}


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
        from fairkv_eval.kvpress_bridge import bridged_press  # it needs this module's Press

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
