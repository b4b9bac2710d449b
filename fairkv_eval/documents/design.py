"""The design of sys_multi: how many instructions stand in a prompt, and what stands around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairkv_eval.documents.wording import instructions
from fairkv_eval.errors import UsageError, unknown

SIZES = (1, 2, 4, 8)
ORDERS = ("first", "last")


@dataclass(frozen=True)
class Design:
    """The options of a task, in its metadata. Raises UsageError for a value that is not allowed.

    n: the numbers of instructions in a prompt, or one of them. prompts: documents per n, a multiple of the number of
    instructions. seed: any whole number. secret, defense: the place of an internal code, and of the order to keep it:
    first, last or None. ask: whether the user asks for the code. filler: tokens, by estimate, to which a system prompt
    is padded, 0 for none. filler_order: first puts the filler before the instructions, last after them.
    """

    n: tuple[int, ...] = SIZES
    prompts: int = 75
    seed: int = 0
    secret: str | None = None
    defense: str | None = None
    ask: bool = False
    filler: int = 0
    filler_order: str = "first"

    def __post_init__(self) -> None:
        items = len(instructions())
        for n in self.n:
            if n not in SIZES:
                raise unknown("n", n, map(str, SIZES))
        if not self.n or len(set(self.n)) != len(self.n):
            raise UsageError(f"n={list(self.n)} is not allowed; it takes different numbers out of {list(SIZES)}")
        if not _whole(self.prompts) or self.prompts < items or self.prompts % items:
            raise UsageError(
                f"prompts={self.prompts!r} is not allowed; it takes a multiple of {items}, the number of instructions, "
                f"so that each stands equally often at every position: {items}, {2 * items}, {3 * items} …"
            )
        if not _whole(self.seed):
            raise UsageError(f"seed={self.seed!r} is not allowed; it takes a whole number")
        if not _whole(self.filler) or self.filler < 0:
            raise UsageError(f"filler={self.filler!r} is not allowed; it takes a whole number of tokens from 0")
        for name, value in (("secret", self.secret), ("defense", self.defense)):
            if value is not None and value not in ORDERS:
                raise unknown(name, value, ORDERS)
        if self.filler_order not in ORDERS:
            raise unknown("filler_order", self.filler_order, ORDERS)
        if not isinstance(self.ask, bool) or (self.ask and self.secret is None):
            raise UsageError(f"ask={self.ask!r} is not allowed; it takes true or false, and true needs a secret")

    @classmethod
    def of(cls, typed: Mapping[str, Any]) -> Design:
        """The design that these options make."""
        options = dict(typed)
        if "n" in options:
            n = options["n"]
            options["n"] = tuple(n) if isinstance(n, Sequence) and not isinstance(n, str) else (n,)
        return cls(**options)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
