"""The positions of a context that no eviction takes: a policy's whitelist."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor


class MustStay:
    """Positions of a context of n tokens that must stay.

    The host counts them and each device gets its mask once: an eviction of every layer that asked a device for a number
    would wait as often for all that it has still to do.
    """

    def __init__(self, mask: Tensor) -> None:
        """mask: boolean ``[n]``, on the CPU."""
        self._masks = {mask.device: mask}
        self._before: list[int] = [0, *accumulate(mask.int().tolist())]

    @classmethod
    def of(cls, ranges: Sequence[tuple[int, int]], n: int) -> MustStay | None:
        """The positions inside the ranges; None if there are none."""
        if not ranges:
            return None
        mask = torch.zeros(n, dtype=torch.bool)
        for start, stop in ranges:
            mask[start:stop] = True
        return cls(mask)

    def within(self, start: int, stop: int) -> int:
        """How many of them lie in [start, stop)."""
        return self._before[stop] - self._before[start]

    def on(self, device: torch.device) -> Tensor:
        """Boolean ``[n]`` on a device."""
        if device not in self._masks:
            self._masks[device] = next(iter(self._masks.values())).to(device)
        return self._masks[device]
