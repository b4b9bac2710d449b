"""The presses of this package as their YAMLs declare them, without their functions, so that a list needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from fairkv_eval import strict_yaml
from fairkv_eval.eviction.parameter import STATISTICS, STATISTICS_FILE, Parameter
from fairkv_eval.files import resource_dir

_TEXTS = ("summary", "observes", "paper", "cost")
_ARXIV = "https://arxiv.org/abs/"


@dataclass(frozen=True)
class DeclaredPress:
    """What a press file says. ``functions``: the names of its functions by their keys. The other fields are those of
    `Press`."""

    name: str
    aliases: tuple[str, ...] = ()
    summary: str = ""
    observes: str = ""
    paper: str = ""
    cost: str = ""
    sets_amount: bool = False
    refuses: tuple[str, ...] = ()
    default_base: str | None = None
    base: DeclaredPress | None = None
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    functions: Mapping[str, str] = field(default_factory=dict)
    sha256: str = ""

    @property
    def decodes(self) -> bool:
        """Whether it can be used with decode_budget=N."""
        return "decode" in self.functions

    @property
    def divides_evenly(self) -> bool:
        """Whether all layers and heads keep equally many pairs, as positions=contiguous needs."""
        pools = self.parameters.get("pooled")  # heads compete only if it is on
        divides = "budget" in self.functions and (pools is None or pools.default is not False)
        return not divides and (self.base is None or self.base.divides_evenly)


def declared_presses() -> dict[str, DeclaredPress]:
    """All presses of this package by name, each wrapper around the base that its file names."""
    presses = [_read(path) for path in sorted(resource_dir("presses").glob("*.yaml"))]
    named = {name: press for press in presses for name in (press.name, *press.aliases)}
    return {press.name: _around(press, named.get(press.default_base or "")) for press in presses}


def _around(press: DeclaredPress, base: DeclaredPress | None) -> DeclaredPress:
    if base is None:
        return press
    return replace(press, base=base, parameters={**press.parameters, **base.parameters})


class _FunctionName(str):
    """What stands after `!function`."""


def _read(path: Path) -> DeclaredPress:
    config = strict_yaml.load(path, {"!function": _FunctionName}, texts=_TEXTS)
    texts = {key: config[key] for key in _TEXTS if key in config}
    paper = texts.get("paper", "")
    if paper and "/" not in paper:  # the number of a preprint
        texts["paper"] = f"{_ARXIV}{paper}"
    parameters = {name: _parameter(entry) for name, entry in (config.get("parameters") or {}).items()}
    return DeclaredPress(
        name=config["press"],
        aliases=tuple(config.get("aliases") or ()),
        default_base=config.get("base"),
        sets_amount=config.get("sets_amount", False),
        refuses=tuple(config.get("refuses") or ()),
        parameters=parameters | ({STATISTICS: STATISTICS_FILE} if STATISTICS in config else {}),
        functions={key: name for key, name in config.items() if isinstance(name, _FunctionName)},
        **texts,
    )


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    """A parameter of this package's own files, which tests read in full."""
    names = {field.name for field in fields(Parameter)}
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Parameter(**{key: value for key, value in values.items() if key in names})
