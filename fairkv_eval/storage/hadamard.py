"""Rotation of a head's channels that spreads outliers, before they are quantized."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

SEED = 0
SMALLEST = 8  # channels of a block; a smaller one would spread nothing


@lru_cache(maxsize=8)
def rotation(dim: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A randomized Hadamard matrix, orthogonal: ``[dim, dim]``. Channels x are rotated to x @ matrix.

    Signs are drawn from a fixed seed. For a dim that is no power of two it consists of equal blocks, of the largest
    power of two that divides ``dim``.
    """
    size = dim & -dim
    block = torch.ones(1, 1, dtype=torch.float64)
    while len(block) < size:
        block = torch.cat([torch.cat([block, block], 1), torch.cat([block, -block], 1)])
    signs = torch.randint(0, 2, (dim, 1), generator=torch.Generator().manual_seed(SEED)) * 2 - 1
    matrix: Tensor = signs * torch.block_diag(*[block] * (dim // size)) / size**0.5
    return matrix.to(device, dtype)


def rotated(entries: Tensor) -> Tensor:
    """Entries ``[..., dim]`` rotated, computed in float32 at least, in their own type."""
    wide = torch.promote_types(entries.dtype, torch.float32)
    return (entries.to(wide) @ rotation(entries.shape[-1], wide, entries.device)).to(entries.dtype)


def rotated_back(entries: Tensor) -> Tensor:
    """Rotated entries ``[..., dim]`` as they were before."""
    wide = torch.promote_types(entries.dtype, torch.float32)
    return (entries.to(wide) @ rotation(entries.shape[-1], wide, entries.device).T).to(entries.dtype)
