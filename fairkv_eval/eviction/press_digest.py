"""The digest of a press: of its YAML, of the source of the functions it names, and of everything of theirs they use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from fairkv_eval import source_digest

_DESCRIBES = ("summary", "paper", "observes", "aliases", "cost", "sets_amount")


def digest(config: Mapping[str, Any], functions: Iterable[Callable[..., Any]]) -> str:
    """SHA-256 of a press's YAML, without what only describes the press, and of its functions' sources."""
    decides = {key: value for key, value in config.items() if key not in _DESCRIBES}
    parameters = decides.get("parameters") or {}
    decides["parameters"] = {
        name: {key: value for key, value in entry.items() if key != "help"} for name, entry in parameters.items()
    }
    plain = json.dumps(decides, sort_keys=True, default=_name)
    return source_digest.digest(functions, plain)


def _name(function: Any) -> str:
    return _name(function.func) if isinstance(function, partial) else getattr(function, "__name__", str(type(function)))
