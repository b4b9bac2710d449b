"""Rotation of a head's channels that spreads outliers, before they are quantized."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SEED = 0
SMALLEST = 8  # channels of a block; a smaller one would spread nothing


@lru_cache(maxsize=8)
def rotation(dim: int, device: torch.device) -> Tensor:
    """A randomized Hadamard matrix, orthogonal: float32 ``[dim, dim]``. Channels x are rotated to x @ matrix.

    Signs are drawn from a fixed seed. For a dim that is no power of two it consists of equal blocks, of the largest
    power of two that divides ``dim``.
    """
    size = dim & -dim
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = torch.randint(0, 2, (dim, 1), generator=torch.Generator().manual_seed(SEED)) * 2 - 1
    blocks = torch.block_diag(*[matrix] * (dim // size))
    return (signs * blocks / size**0.5).to(device)


def rotated(entries: Tensor) -> Tensor:
    """Entries ``[..., dim]`` rotated, computed in float32, in their own type."""
    return (entries.float() @ rotation(entries.shape[-1], entries.device)).to(entries.dtype)


def rotated_back(entries: Tensor) -> Tensor:
    """Rotated entries ``[..., dim]`` as they were before."""
    return (entries.float() @ rotation(entries.shape[-1], entries.device).T).to(entries.dtype)
