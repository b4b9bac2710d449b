"""The policy of a result: everything that decided which KV pairs survived."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from fairkv_eval.eviction.policy_arguments import ARGUMENTS, STORED, PolicyArguments
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.storage.bits import PLAIN_BITS

# Arguments of `PromptSettings` that decide how a prompt is divided. The other one, chat, decides the prompt itself.
DIVIDING = ("segments", "scope", "fewshot_delimiter", "context_field")


@dataclass(frozen=True)
class RecordedPolicy(PolicyArguments):
    """A policy as a result describes it, under the same names. Plain `hf` is press "none", ratio 0.

    ``segments``, ``scope``, ``fewshot_delimiter`` and ``context_field``: how prompts were divided, which decides what
    survives as well; None for a default.
    """

    press: str = "none"
    base: str | None = None
    segments: str | None = None
    scope: str | None = None
    fewshot_delimiter: str | None = None
    context_field: str | None = None
    press_sha256: str | None = None
    sets_amount: bool = False

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> RecordedPolicy:
        """The policy that `Policy.describe` described in a result; {} for a result of another model."""
        if not described:
            return cls()
        former = _former_digests().get(described.get("press_sha256"), {})
        parameters = {**former.get("parameters", {}), **(described.get("parameters") or {})}
        return cls(
            press=described["press"],
            base=described.get("base"),
            parameters=tuple(sorted((str(name), plain(value)) for name, value in parameters.items())),
            segments=described.get("segments"),
            scope=described.get("scope"),
            fewshot_delimiter=_unless(described.get("fewshot_delimiter"), PromptSettings.fewshot_delimiter),
            context_field=described.get("context_field"),
            press_sha256=former.get("present", described.get("press_sha256")),
            sets_amount=described.get("sets_amount") is True,
            **{entry.name: entry.restored(described.get(entry.name)) for entry in ARGUMENTS},
        )

    @property
    def evicts(self) -> bool:
        """Whether anything is ever evicted."""
        amounts = self.ratio or self.amount != "ratio" or self.decode_budget or self.sets_amount
        return self.press != "none" and bool(amounts)

    @property
    def full(self) -> bool:
        """Whether nothing is ever evicted, and all pairs are held as the model computes them."""
        return not self.evicts and self.kv_bits == PLAIN_BITS and not self.key_channels

    @property
    def held(self) -> tuple[Any, ...]:
        """How pairs are held, which tells policies apart that evict alike."""
        return tuple(getattr(self, name) for name in STORED)

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
        typed = self._prompt_arguments().items() if super().arguments() else ()
        yield from (f"{name}={value.encode('unicode_escape').decode()}" for name, value in typed)

    def _prompt_arguments(self) -> dict[str, str]:
        values = {name: getattr(self, name) for name in DIVIDING}
        return {name: value for name, value in values.items() if value not in (None, "auto")}


def plain(value: Any) -> Any:
    """A value that can be hashed and compared: nested ones as their JSON."""
    return json.dumps(value, sort_keys=True) if isinstance(value, (dict, list)) else value


def _unless(value: str | None, default: str) -> str | None:
    return None if value == default else value


@cache
def _former_digests() -> dict[str | None, dict[str, Any]]:
    """By a press's former digest the present one, and the parameters that it has got since; see former_digests.yaml."""
    text = files("fairkv_eval.results").joinpath("former_digests.yaml").read_text(encoding="utf-8")
    return {entry["former"]: entry for entry in yaml.safe_load(text).values()}
