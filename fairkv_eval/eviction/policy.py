"""A policy: everything that decides which KV pairs survive, and where the survivors stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.budgets import EVEN, Division
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.press import Parameters, Press
from fairkv_eval.eviction.press_files import built_in_presses
from fairkv_eval.eviction.quotas import n_kept

POSITIONS = ("original", "contiguous")


@dataclass(frozen=True)
class Policy:
    """Press, parameters, ratio or budget, fairness, whitelist, positions and what happens while decoding.

    ``ratio`` in [0, 1) is the fraction of a context's pairs that is evicted; ``budget``, in its place, the number of
    pairs a layer and head keeps (their mean where the press divides budgets unevenly). ``fair`` in [0, 1] is the degree
    to which every segment gets its proportional share; ``keep`` names what must survive (see `keep`). ``positions``:
    kept keys stay where they were, or are turned to consecutive positions. ``decode_budget``: pairs a layer and head
    holds while decoding, context, tail and answer together, looked after every ``decode_every`` tokens.
    """

    press: Press | None = None
    parameters: Parameters = ()
    ratio: float = 0.0
    fair: float = 0.0
    keep: tuple[str, ...] = ()
    budget: int | None = None
    positions: str = "original"
    decode_budget: int | None = None
    decode_every: int = 16

    def __post_init__(self) -> None:
        _check_fraction("ratio", self.ratio, below_one=True)
        _check_fraction("fair", self.fair)
        if self.budget is not None:
            _check_count("budget", self.budget)
            if self.ratio:
                raise UsageError(f"ratio={self.ratio:g} and budget={self.budget} both say how much is kept; give one")
        if self.positions not in POSITIONS:
            raise unknown("positions", self.positions, POSITIONS)
        if self.positions == "contiguous" and not self.division.uniform:
            raise UsageError(
                f"positions=contiguous needs a press that keeps equally many pairs in all layers and heads, since the "
                f"next token has one position; {self._name!r} does not"
            )
        if self.division.pooled == "model" and not (self.press and self.press.replay):
            raise UsageError(f"press {self._name!r} pools budgets over the model, which needs a replay")
        self._check_decoding()
        if self.press is None:
            for name in ("ratio", "budget", "decode_budget"):
                value = getattr(self, name)
                if value:
                    raise UsageError(f"{name}={value:g} needs a press to choose what is evicted. {_allowed_presses()}")

    def _check_decoding(self) -> None:
        _check_count("decode_every", self.decode_every)
        if self.decode_budget is None:
            return
        _check_count("decode_budget", self.decode_budget)
        if self.press is None:
            return
        if self.press.decode is None:
            able = sorted({press.name for press in built_in_presses().values() if press.decode})
            raise UsageError(
                f"decode_budget={self.decode_budget} needs a press whose score needs only what is in the cache "
                f"({', '.join(able)}); {self._name!r} is none"
            )
        if self.fair:
            raise UsageError(
                f"decode_budget={self.decode_budget} with fair={self.fair:g} is not defined: what is generated belongs "
                "to no segment. Use fair=false, or a ratio or budget without decode_budget"
            )

    @property
    def evicts(self) -> bool:
        """Whether pairs of a context may be evicted before the tail runs."""
        return self.press is not None and (self.ratio > 0 or self.budget is not None)

    @property
    def division(self) -> Division:
        return self.press.division(self.parameters) if self.press else EVEN

    @property
    def _name(self) -> str:
        return self.press.name if self.press else "none"

    def n_kept(self, n: int) -> int:
        """Pairs of a context of n tokens that a layer and head keeps, on average where the press divides unevenly."""
        return n_kept(n, self.ratio) if self.budget is None else min(n, self.budget)

    def scorer(self, layer: Layer) -> Callable[[Span], Tensor]:
        """The press's rule on one layer, a function of the span."""
        assert self.press is not None
        return self.press.scorer(layer, self.parameters)

    def describe(self) -> dict[str, Any]:
        """The policy as plain values, for results and fingerprints."""
        return {
            "press": self._name,
            "base": self.press.base.name if self.press and self.press.base else None,
            "press_sha256": self.press.sha256 if self.press else None,
            "parameters": dict(self.parameters),
            "ratio": self.ratio,
            "budget": self.budget,
            "fair": self.fair,
            "keep": list(self.keep),
            "positions": self.positions,
            "decode_budget": self.decode_budget,
            "decode_every": self.decode_every if self.decode_budget else None,
        }


def _check_fraction(name: str, value: Any, below_one: bool = False) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not (0 <= value < 1 or (value == 1 and not below_one)):
        upto = "up to, not including," if below_one else "to"
        raise UsageError(f"{name}={value!r} is not allowed; it takes a number from 0 {upto} 1")


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name}={value!r} is not allowed; it takes a whole number from 1")


def _allowed_presses() -> str:
    return "Presses: " + ", ".join(sorted({press.name for press in built_in_presses().values()})) + "."
