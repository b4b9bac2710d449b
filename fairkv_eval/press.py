"""Presses and policies: which rule scores KV pairs, and everything else that decides which of them survive.

A press is a YAML file: a name, the function that scores, and its parameters. Those of this package are in
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

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.resources import resource_dir
from fairkv_eval.scores import Layer, Span

_KEYS = {"press", "aliases", "summary", "paper", "observes", "score", "parameters"}


@dataclass(frozen=True)
class Parameter:
    """One number a press can be told: default, bounds (inclusive; ``odd`` where a centre is needed), and its use."""

    default: float
    min: float = -math.inf
    max: float = math.inf
    odd: bool = False
    help: str = ""

    def check(self, press: str, name: str, value: Any) -> float:
        """The value, or an error that names press, parameter, value and bounds. Whole where the default is whole."""
        whole = isinstance(self.default, int)
        kind = int if whole else (int, float)
        allowed = f"{'an odd whole' if self.odd else 'a whole' if whole else 'a'} number"
        allowed += f" from {self.min:g}" if self.min > -math.inf else ""
        allowed += f" to {self.max:g}" if self.max < math.inf else ""
        fits = isinstance(value, kind) and not isinstance(value, bool) and self.min <= value <= self.max
        if not fits or (self.odd and value % 2 == 0):
            raise UsageError(
                f"press {press!r}: {name}={value!r} is not allowed; it takes {allowed} (default {self.default})"
            )
        return value


@dataclass(frozen=True, eq=False)
class Press:
    """A scoring rule by name: ``score(layer, span, **parameters) -> [kv_heads, len(span)]`` (see `scores`).

    ``sha256`` covers its YAML and the file of its function, so that an edited rule is told from the one before.
    """

    name: str
    score: Callable[..., Tensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    summary: str = ""
    paper: str = ""
    observes: str = ""
    sha256: str = ""

    def configure(self, given: Mapping[str, object]) -> tuple[tuple[str, float], ...]:
        """All parameters with their values, by name: the defaults, overridden by what is given and checked."""
        for name in given:
            if name not in self.parameters:
                raise unknown(f"parameter of press {self.name!r}", name, self.parameters)
        return tuple((k, p.check(self.name, k, given.get(k, p.default))) for k, p in self.parameters.items())


@dataclass(frozen=True)
class Policy:
    """Press, parameters, ratio, fairness and whitelist: everything that decides which KV pairs survive.

    ``ratio`` in [0, 1) is the fraction of a context's pairs that is evicted; ``fair`` in [0, 1] the degree to which
    every segment gets its proportional share; ``keep`` names the segments that must survive.
    """

    press: Press | None = None
    parameters: tuple[tuple[str, float], ...] = ()
    ratio: float = 0.0
    fair: float = 0.0
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_fraction("ratio", self.ratio, below_one=True)
        _check_fraction("fair", self.fair)
        if self.press is None and self.ratio:
            raise UsageError(f"ratio={self.ratio:g} needs a press to choose what is evicted. {_allowed_presses()}")

    @property
    def evicts(self) -> bool:
        return self.press is not None and self.ratio > 0

    def scorer(self, layer: Layer) -> Callable[[Span], Tensor]:
        """The press's rule on one layer, a function of the span."""
        assert self.press is not None
        return partial(self.press.score, layer, **dict(self.parameters))

    def describe(self) -> dict[str, Any]:
        """The policy as plain values, for results and fingerprints."""
        return {
            "press": self.press.name if self.press else "none",
            "press_sha256": self.press.sha256 if self.press else None,
            "parameters": dict(self.parameters),
            "ratio": self.ratio,
            "fair": self.fair,
            "keep": list(self.keep),
        }


def load_press(name: str) -> Press | None:
    """The press of this name or alias, or of the YAML file at this path; None for ``none``."""
    if name == "none":
        return None
    name = str(name)  # the harness reads press=3 as a number
    if name.endswith((".yaml", ".yml")):
        return read_press(Path(name))
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
        return replace(press, sha256=_digest(path, press.score))
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"press file {str(path)!r}: {error}") from error


def _from_config(config: dict[str, Any]) -> Press:
    for key in config:
        if key not in _KEYS:
            raise unknown("key", key, _KEYS)
    for key in ("press", "score"):
        if key not in config:
            raise UsageError(f"the key {key!r} is missing")
    if not callable(config["score"]):
        raise UsageError(f"score must name a function (score: !function module.function), not {config['score']!r}")
    if not isinstance(config.get("aliases") or [], list):
        raise UsageError(f"aliases must be a list, not {config['aliases']!r}")
    parameters = {name: Parameter(**entry) for name, entry in (config.get("parameters") or {}).items()}
    press = Press(
        name=config["press"],
        score=config["score"],
        parameters=parameters,
        aliases=tuple(config.get("aliases") or ()),
        summary=config.get("summary", ""),
        paper=config.get("paper", ""),
        observes=config.get("observes", ""),
    )
    defaults = press.configure({})
    inspect.signature(press.score).bind(None, None, **dict(defaults))  # TypeError where YAML and function disagree
    return press


def _digest(path: Path, score: Callable[..., Tensor]) -> str:
    code = Path(inspect.getsourcefile(score) or path)
    return hashlib.sha256(path.read_bytes() + code.read_bytes()).hexdigest()


def _check_fraction(name: str, value: Any, below_one: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 or (value == 1 and not below_one)):
        upto = "up to, not including," if below_one else "to"
        raise UsageError(f"{name}={value!r} is not allowed; it takes a number from 0 {upto} 1")


def _allowed_presses() -> str:
    return "Presses: " + ", ".join(sorted({press.name for press in built_in_presses().values()})) + "."
