"""A policy: everything that decides which KV pairs survive, and at which positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.budgets import EVEN, Division
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.policy_arguments import AMOUNTS, ARGUMENTS, DEFAULTS, NAMES, STORED, PolicyArguments, shown
from fairkv_eval.eviction.press import Press
from fairkv_eval.eviction.press_files import built_in_presses, load_press
from fairkv_eval.eviction.quotas import n_kept
from fairkv_eval.eviction.read_only import read_only
from fairkv_eval.storage.bits import PLAIN_BITS, ROTATED
from fairkv_eval.storage.byte_budget import bytes_allowed
from fairkv_eval.storage.room import Entry, most_pairs, nbytes_full, nbytes_with
from fairkv_eval.storage.storage import Storage


@dataclass(frozen=True)
class Policy(PolicyArguments):
    """Press, parameters, and the arguments of `policy_arguments`, checked one by one and together.

    ``ratio`` in [0, 1) is the fraction of a context's pairs that is evicted; ``budget``, in its place, the number of
    pairs that a layer and head keeps (the mean, if the press divides budgets unevenly); ``budget_bytes``, the bytes
    that all layers may hold. ``fair`` in [0, 1] is the degree to which every segment gets its proportional share;
    ``keep`` names what must survive (see `whitelist`). ``positions``: kept keys stay at their positions, or are turned
    to consecutive ones. ``merge``: what becomes of evicted pairs (see `merging`). ``decode_budget``: pairs that a layer
    and head holds while decoding, context, tail and answer together, enforced every ``decode_every`` tokens.
    ``kv_bits``, ``kv_scheme``, ``kv_group``, ``kv_residual``, ``key_channels`` and ``key_window``: how pairs are held
    (see `Storage`).
    """

    press: Press | None = None

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Policy:
        """The policy in typed arguments. UsageError for a value that is not allowed, or a name it does not have."""
        policy, others = cls.split(arguments)
        for name in others:
            raise unknown("policy argument", name, {*NAMES, *policy.parameter_defaults})
        return policy

    @classmethod
    def split(cls, arguments: Mapping[str, Any]) -> tuple[Policy, dict[str, Any]]:
        """The policy among these arguments, and the arguments that are not part of one."""
        press = load_press(arguments.get("press", "none"), arguments.get("base"))
        typed = {} if press is None else {k: v for k, v in arguments.items() if k in press.parameters}
        parameters = () if press is None else press.configure(typed)
        policy = cls(press, parameters, **{entry.name: entry.of(arguments) for entry in ARGUMENTS})
        policy.check_amounts({name: arguments.get(name) for name in AMOUNTS})
        return policy, {k: v for k, v in arguments.items() if k not in NAMES and k not in typed}

    def __post_init__(self) -> None:
        for entry in ARGUMENTS:
            entry.check(entry.name, getattr(self, entry.name))
        amounts = [f"{name}={shown(value)}" for name, value in self._amounts().items() if value is not None]
        if len(amounts) > 1:
            raise UsageError(f"{' and '.join(amounts)} both say how much is kept; give one")
        self._check_press()
        self._check_division()
        self._check_decoding()
        self._check_storage()

    def _check_press(self) -> None:
        for name in ("ratio", "budget", "decode_budget"):
            value = getattr(self, name)
            if value and self.press is None:
                presses = ", ".join(sorted({press.name for press in built_in_presses().values()}))
                raise UsageError(f"{name}={value:g} needs a press to choose what is evicted. Presses: {presses}.")
        if self.budget_bytes is not None and self.press is None and self.storage.plain:
            raise UsageError(
                f"budget_bytes={shown(self.budget_bytes)} has no effect on the full cache; it needs a press, kv_bits "
                "or key_channels"
            )
        for name in ("fair", "keep", "merge"):
            value = getattr(self, name)
            if value != getattr(Policy, name) and self.press is None:
                raise UsageError(f"{name}={shown(value)} has no effect on the full cache; it needs a press")

    def _check_division(self) -> None:
        if self.positions == "contiguous" and not self.division.uniform:
            raise UsageError(
                f"positions=contiguous needs a press that keeps equally many pairs in all layers and heads, since the "
                f"next token has one position; {self.press_name!r} does not"
            )
        self.check_amounts(self._amounts())

    def _amounts(self) -> dict[str, Any]:
        """What is said about how much is kept; None for what is not."""
        return {name: getattr(self, name) or None for name in AMOUNTS}

    def check_amounts(self, amounts: Mapping[str, Any]) -> None:
        """UsageError if one of these is typed beside a press that itself says how much is kept."""
        for name, value in amounts.items():
            if self.sets_amount and value is not None:
                press = f"press {self.press_name!r} itself says how much is kept"
                raise UsageError(f"{press}, so {name}={shown(value)} beside it has no meaning")

    def _check_decoding(self) -> None:
        if self.decode_budget is None and self.decode_every != DEFAULTS["decode_every"]:
            raise UsageError(f"decode_every={self.decode_every} has no effect without decode_budget")
        if self.decode_budget is None and self.merge == "cam":
            raise UsageError(
                "merge=cam merges what is evicted while decoding, so it needs decode_budget; merge=similar and "
                "merge=d2o merge what is evicted from a context as well"
            )
        if self.decode_budget is None or self.press is None:
            return
        if self.press.decode is None:
            able = sorted({press.name for press in built_in_presses().values() if press.decode})
            raise UsageError(
                f"decode_budget={self.decode_budget} needs a press whose score needs only what is in the cache "
                f"({', '.join(able)}); {self.press_name!r} is not one of them"
            )
        if self.fair:
            raise UsageError(
                f"decode_budget={self.decode_budget} with fair={self.fair:g} is not defined: what is generated belongs "
                "to no segment. Use fair=false, or a ratio or budget without decode_budget"
            )

    def _check_storage(self) -> None:
        for name in ("kv_scheme", "kv_group", "kv_residual"):
            value = getattr(self, name)
            if self.kv_bits == PLAIN_BITS and value != DEFAULTS[name]:
                raise UsageError(f"{name}={value} has no effect without kv_bits=8, 4, 3 or 2 (or k4v2)")
        if not self.key_channels and self.key_window != DEFAULTS["key_window"]:
            raise UsageError(f"key_window={self.key_window} has no effect without key_channels")
        if self.key_channels and self.kv_scheme == ROTATED:
            raise UsageError(
                f"key_channels={self.key_channels:g} with kv_scheme=rotated is not defined: a rotation mixes channels. "
                "Use kv_scheme=per_token or kivi"
            )
        if self.decode_budget is not None and not self.storage.plain:
            name = "kv_bits" if self.kv_bits != PLAIN_BITS else "key_channels"
            raise UsageError(
                f"decode_budget={self.decode_budget} with {name}={shown(getattr(self, name))} is not defined: pairs "
                "that are evicted while decoding would have to leave what is packed. Use a ratio or budget without "
                "decode_budget"
            )

    @cached_property
    def storage(self) -> Storage:
        """How a row holds its pairs."""
        settings = self.kv_scheme, self.kv_group, self.kv_residual, self.key_channels, self.key_window
        return Storage.of(self.kv_bits, *settings)

    @property
    def evicts(self) -> bool:
        """Whether pairs of a context may be evicted before the tail runs."""
        return self.press is not None and (any(self._amounts().values()) or self.sets_amount)

    @property
    def sets_amount(self) -> bool:
        return self.division.own is not None

    @property
    def collects(self) -> bool:
        """Whether it needs the attention that pairs receive while decoding: for its press, or for `merge_cam`."""
        return self.merge == "cam" or (self.press is not None and self.press.collects)

    @property
    def unevicted(self) -> Policy:
        """The policy that evicts nothing and holds pairs as this one does."""
        names = [*STORED, *["budget_bytes"] * (self.press is None)]  # that the storage fits is still to be checked
        return Policy(**{name: getattr(self, name) for name in names})

    @cached_property
    def division(self) -> Division:
        """How the press divides budgets over layers and heads."""
        return self.press.division(self.parameters) if self.press else EVEN

    @property
    def press_name(self) -> str:
        return self.press.name if self.press else "none"

    @property
    def base_name(self) -> str | None:
        return self.press.base.name if self.press and self.press.base else None

    @cached_property
    def press_digest(self) -> str | None:
        return self.press.digest(self.parameters) if self.press else None

    @property
    def parameter_defaults(self) -> Mapping[str, Any]:
        return {name: parameter.default for name, parameter in self.press.parameters.items()} if self.press else {}

    def n_kept(self, n: int, entries: Sequence[Entry] = ()) -> int:
        """Pairs of a context of n tokens that a layer and head keeps, on average if the press divides unevenly; at most
        if it depends on the text. entries: of the model's layers, which decide how many fit in ``budget_bytes``.
        UsageError if not even sliding windows fit, or without a press, if a pair would have to go."""
        if self.division.own is not None:
            return self.division.own(n)
        if self.budget_bytes is not None:
            return self._within_bytes(n, entries, bytes_allowed(self.budget_bytes, nbytes_full(entries, n)))
        return n_kept(n, self.ratio) if self.budget is None else min(n, self.budget)

    def _within_bytes(self, n: int, entries: Sequence[Entry], allowed: int) -> int:
        if not entries:
            raise ValueError("how many pairs fit in bytes is not known without the entries of a model's layers")
        most = most_pairs(entries, n, allowed, self.storage, self.division.uniform)
        least = min(n, 1) if self.press else n
        if n > 1 and (most < 0 or (self.press is None and most < n)):
            what = "one pair per head and the sliding windows take" if self.press else f"{self.label} holds"
            raise UsageError(
                f"budget_bytes={shown(self.budget_bytes)} of a context of {n} tokens is {allowed:,} bytes, and "
                f"{what} {nbytes_with(entries, n, least, self.storage):,}"
            )
        return max(most, least)

    def scorer(self, layer: Layer) -> Callable[[Span], Tensor]:
        """The press's rule on one layer, a function of the span."""
        assert self.press is not None
        name, score = self.press.name, self.press.scorer(layer, self.parameters)

        def guarded(span: Span) -> Tensor:
            with read_only(name):
                return score(span)

        return guarded
