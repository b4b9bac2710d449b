"""Keys or values that are held as the model computes them, beside the others in fewer bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Whole:
    """Holds entries ``[..., n, dim]`` as they are. See `Quantiser`."""

    dim: int
    dtype: torch.dtype

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        return ((1, self.dim),)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        return (self.dtype,)

    def nbytes(self, n: int) -> int:
        return n * self.dim * self.dtype.itemsize

    def encode(self, entries: Tensor) -> tuple[Tensor, ...]:
        return (entries,)

    def decode(self, held: tuple[Tensor, ...], out: Tensor) -> None:
        out.copy_(held[0])
