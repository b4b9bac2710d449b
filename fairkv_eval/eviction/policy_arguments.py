"""The arguments of a policy: one field each, from which all that is typed, checked, written and read back is made.

Another argument is another field of `PolicyArguments`. The model and a sweep's press entries take it, results describe
it and are read back with it, and labels, folder names and commands show it unless it is the default.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fairkv_eval.eviction.argument import (
    Argument,
    argument,
    count,
    count_or_none,
    fraction,
    fraction_below_one,
    from_zero_or_none,
    one_of,
    table,
    unchecked,
)
from fairkv_eval.prompts.whitelist import TEXT, literals, parse_keep
from fairkv_eval.provenance import nameless
from fairkv_eval.storage.bits import PER_TOKEN, PLAIN_BITS, SCHEMES, check_bits, joined_bits
from fairkv_eval.storage.byte_budget import check_byte_budget, read_byte_budget

AMOUNTS = ("ratio", "budget", "budget_bytes")  # one of them says how much is kept; a sweep takes lists of them
POSITIONS = ("original", "contiguous")
MERGES = ("none", "similar", "cam", "d2o")
# How pairs are held, with or without a press.
STORED = ("kv_bits", "kv_scheme", "kv_group", "kv_residual", "key_channels", "key_window")


def _degree(fair: Any) -> Any:
    return float(fair) if isinstance(fair, bool) else fair


def _typed_keep(keep: tuple[str, ...]) -> tuple[Any, Any]:
    names, texts = [entry for entry in keep if not entry.startswith(TEXT)], list(literals(keep))
    return "+".join(names) or None, (texts[0] if len(texts) == 1 else texts) or None


@dataclass(frozen=True)
class PolicyArguments:
    """What a policy and its record in a result share: the press with its parameters, and one field per argument."""

    press: Any = None
    parameters: tuple[tuple[str, Any], ...] = ()
    ratio: float = argument(
        0.0,
        fraction_below_one,
        "fraction of a context's KV pairs to evict, in [0, 1); floor(n·(1−ratio)) are kept, never below 1",
        kw_only=False,
    )
    budget: int | None = argument(
        None,
        count_or_none,
        "instead of a ratio: KV pairs kept per layer and head (their mean if the press divides budgets unevenly); "
        "contexts no longer than that stay whole",
    )
    budget_bytes: float | str | None = argument(
        None,
        check_byte_budget,
        "instead of a ratio: KV bytes held of a context, as a fraction of the full cache's (`0.25`) or an amount "
        "(`16MiB`; KiB, MiB, GiB). As many whole pairs are kept as fit in the storage, its scales counted, but never "
        "fewer than one per head; all layers count, sliding windows too. Without a press the storage alone must fit",
        read=read_byte_budget,
    )
    fair: float = argument(
        0.0,
        fraction,
        "`true`: every segment keeps its proportional share. A number in [0, 1] is a degree between plain and fair "
        "(this interpolation is ours)",
        read=_degree,
        kw_only=False,
    )
    keep: tuple[str, ...] = argument(
        (),
        unchecked,
        {
            "keep": "what must survive, inside the budget: segment names, `special` (the model's special tokens), "
            "positions `5`, `0:12`, `12:`, or several joined by `+`. A range ends with the context; a position beyond "
            "it is an error",
            "keep_text": "a text of the context that must survive, every time it occurs",
        },
        read=parse_keep,
        typed=_typed_keep,
        kw_only=False,
    )
    positions: str = argument(
        "original",
        one_of(POSITIONS),
        "`contiguous`: kept keys are turned to consecutive positions, and the tail continues from there "
        "(StreamingLLM as published)",
    )
    merge: str = argument(
        "none",
        one_of(MERGES),
        "what becomes of evicted pairs: `none` drops them; `similar` averages each value into the kept pair of the "
        "most similar key (kvpress's MergingPress); `d2o` does so with keys and values, above a threshold only (arXiv "
        "2406.13035); `cam` adds values to the kept pairs that follow, while decoding (CaM, ICML 2024). Merging stays "
        "within a head, and with `fair` within a segment; pairs of a segment that keeps none are dropped. Whitelisted "
        "pairs take nothing in",
    )
    decode_budget: int | None = argument(
        None,
        count_or_none,
        "KV pairs held per layer and head while decoding, context, tail and answer together; for presses that need "
        "only the cache's own content",
    )
    decode_every: int = argument(16, count, "evict again after every this many generated tokens", needs="decode_budget")
    kv_bits: int | str = argument(
        PLAIN_BITS,
        check_bits,
        "bits that a key or value is held in: 8, 4, 3 or 2, or `k4v2` (keys in 4, values in 2); 16 is the model's own "
        "type. Works with every press and ratio, and without a press",
        read=joined_bits,
        restore=joined_bits,
    )
    kv_scheme: str = argument(
        PER_TOKEN,
        one_of(SCHEMES),
        "what shares a scale. `per_token`: channels of a token. `kivi`: of keys, a channel over a group of tokens; of "
        "values, channels of a token (arXiv 2402.02750). `rotated`: channels of a token after a random Hadamard "
        "rotation of each head (2404.00456; TurboQuant, 2504.19874, without its codebooks)",
        needs="kv_bits",
    )
    kv_group: int | None = argument(
        None,
        count_or_none,
        "how many channels share a scale, or tokens for the keys of kivi; by default 64 (or the largest part of a head "
        "below that), and 32 for kivi",
        needs="kv_bits",
    )
    kv_residual: int | None = argument(
        None,
        from_zero_or_none,
        "how many of the newest pairs of a row are held unquantized; by default none, and 128 for kivi",
        needs="kv_bits",
    )
    key_channels: float = argument(
        0.0,
        fraction_below_one,
        "fraction of each head's key channels that is not held, in [0, 1), rounded down: those in which a context's "
        "last queries and its kept keys are smallest (ThinK, arXiv 2407.21018). Pairs that come later hold the same "
        "channels; sliding windows hold all. Works with every press, and kv_bits but kv_scheme=rotated",
    )
    key_window: int = argument(
        32,
        count,
        "how many of a context's last queries choose the channels that are held; with `fair`, of each segment's, and "
        "segments count alike",
        needs="key_channels",
    )

    # --- the press, which a policy holds and a record names

    @property
    def press_name(self) -> str:
        """The press's name; "none" for the full cache."""
        raise NotImplementedError

    @property
    def base_name(self) -> str | None:
        """The press that a wrapper wraps."""
        raise NotImplementedError

    @property
    def press_digest(self) -> str | None:
        """SHA-256 of the press and of the files among its parameters (see `press_digest`)."""
        raise NotImplementedError

    @property
    def sets_amount(self) -> bool:
        """Whether the press itself says how much is kept, and takes neither ratio nor budget."""
        raise NotImplementedError

    @property
    def parameter_defaults(self) -> Mapping[str, Any]:
        """The defaults of the press's parameters, as far as they are known."""
        return {}

    # --- the ways to write a policy

    def describe(self) -> dict[str, Any]:
        """The policy as plain values, for results and fingerprints."""
        values = {entry.name: self._effective(entry) for entry in ARGUMENTS}
        return {
            "press": self.press_name,
            "base": self.base_name,
            "press_sha256": self.press_digest,
            "parameters": {name: nameless(value) for name, value in self.parameters},
            **{name: list(value) if isinstance(value, tuple) else value for name, value in values.items()},
            **({"sets_amount": True} if self.sets_amount else {}),
        }

    def arguments(self) -> dict[str, Any]:
        """The policy as typed among the model's arguments, without defaults."""
        typed: dict[str, Any] = {} if self.press_name == "none" else {"press": self.press_name}
        if self.base_name:
            typed["base"] = self.base_name
        defaults = self.parameter_defaults
        typed |= {k: v for k, v in self.parameters if k not in defaults or v != defaults[k]}
        for entry in ARGUMENTS:
            typed |= entry.arguments(getattr(self, entry.name))
        return typed

    @property
    def name(self) -> str:
        """The press with its base and parameters, but empty ones: ``adakv(base=knorm,safeguard=0.2)``."""
        base = [("base", self.base_name)] * bool(self.base_name)
        inside = ",".join(
            f"{name}={nameless(value)}" for name, value in (*base, *sorted(self.parameters)) if value != ""
        )
        return f"{self.press_name}({inside})" if inside else self.press_name

    @property
    def label(self) -> str:
        """The policy in one line: press, amount, and every other argument that is not the default."""
        amount = f"{self.amount}={shown(getattr(self, self.amount))}"
        amounts = [] if self.sets_amount or (self.press_name == "none" and self.amount == "ratio") else [amount]
        return " ".join([self.name if self.press_name != "none" else "full cache", *amounts, *self.settings()])

    @property
    def amount(self) -> str:
        """The argument that says how much is kept; the ratio if none does."""
        return next((name for name in AMOUNTS if getattr(self, name) != DEFAULTS[name]), "ratio")

    def settings(self) -> Iterator[str]:
        """The label's parts behind the press and its amount."""
        for entry in ARGUMENTS:
            value = self._effective(entry)
            if entry.name not in AMOUNTS and value not in (None, entry.default):
                yield f"{entry.name}={shown(value)}"

    def slug(self) -> str:
        """The policy in a file name: ``full``, ``tova_ratio=0.5``, ``snapkv_window=16_ratio=0.5_fair=1``."""
        typed = self.arguments()
        # A press named by a path goes by its file's name.
        press = re.split(r"[\\/]", str(typed.pop("press", "full")))[-1]
        rest = sorted(typed.items(), key=lambda item: _PLACES.get(item[0], 0))
        parts = [press, *(f"{name}={value if isinstance(value, list) else shown(value)}" for name, value in rest)]
        return re.sub(r"[^\w.=,+-]+", "-", "_".join(parts))[:100].strip("-")

    def _effective(self, entry: Argument) -> Any:
        """An argument's value; None if it has no effect without another."""
        idle = entry.needs and getattr(self, entry.needs) == DEFAULTS[entry.needs]
        return None if idle else getattr(self, entry.name)


# Folders of finished cells are found by their names, so the order in these stays as it was first: fair before budget,
# the whitelist last.
_PLACES = dict.fromkeys(("budget", "budget_bytes", "positions", "merge", "decode_budget", "decode_every"), 1)
_PLACES |= {"keep": 2, "keep_text": 2} | dict.fromkeys(STORED, 3)

ARGUMENTS = table(PolicyArguments)
# What belongs to a policy among a model's arguments, beside the parameters of its press, with the help of each.
NAMES = {
    "press": "scoring rule: a name, an alias, the path of a press YAML, or `kvpress:<class>` (`fairkv presses` lists "
    "them; [presses](../presses/README.md))",
    "base": "what a wrapper wraps: `press=adakv,base=knorm`",
    **{name: text for entry in ARGUMENTS for name, text in entry.names.items()},
}
DEFAULTS = {
    "press": "none",
    "base": None,
    **{name: value for entry in ARGUMENTS for name, value in entry.defaults().items()},
}


def shown(value: Any) -> str:
    """An argument's value as text."""
    if isinstance(value, tuple):
        return "+".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
