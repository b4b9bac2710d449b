"""The policy of a result: everything that decided which KV pairs survived."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from fairkv_eval.eviction.policy_arguments import ARGUMENTS, PolicyArguments


@dataclass(frozen=True)
class RecordedPolicy(PolicyArguments):
    """A policy as a result describes it, under the same names. Plain `hf` is press "none", ratio 0.

    ``segments`` and ``scope``: how prompts were divided, which decides what survives as well.
    """

    press: str = "none"
    base: str | None = None
    segments: str | None = None
    scope: str | None = None
    press_sha256: str | None = None

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> RecordedPolicy:
        """The policy that `Policy.describe` described in a result; {} for a result of another model."""
        if not described:
            return cls()
        parameters = described.get("parameters") or {}
        return cls(
            press=described["press"],
            base=described.get("base"),
            parameters=tuple(sorted((str(name), plain(value)) for name, value in parameters.items())),
            segments=described.get("segments"),
            scope=described.get("scope"),
            press_sha256=_present_digest(described.get("press_sha256")),
            **{entry.name: entry.restored(described.get(entry.name)) for entry in ARGUMENTS},
        )

    @property
    def full(self) -> bool:
        """Whether nothing is ever evicted."""
        return self.press == "none" or not (self.ratio or self.budget or self.decode_budget)

    @property
    def press_name(self) -> str:
        return self.press

    @property
    def base_name(self) -> str | None:
        return self.base

    @property
    def press_digest(self) -> str | None:
        return self.press_sha256

    def arguments(self) -> dict[str, Any]:
        typed = super().arguments()
        return {**typed, **self._prompt_arguments()} if typed else {}

    def settings(self) -> Iterator[str]:
        yield from super().settings()
        yield from (f"{name}={value}" for name, value in self._prompt_arguments().items())

    def _prompt_arguments(self) -> dict[str, str]:
        both = {"segments": self.segments, "scope": self.scope}
        return {name: value for name, value in both.items() if value not in (None, "auto")}


def plain(value: Any) -> Any:
    """A value that can be hashed and compared: nested ones as their JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value


def _present_digest(digest: str | None) -> str | None:
    """A press's digest as it is taken now; see former_digests.yaml."""
    return _former_digests().get(digest, digest)


@cache
def _former_digests() -> dict[str | None, str]:
    text = files("fairkv_eval.results").joinpath("former_digests.yaml").read_text(encoding="utf-8")
    return {entry["former"]: entry["present"] for entry in yaml.safe_load(text).values()}
