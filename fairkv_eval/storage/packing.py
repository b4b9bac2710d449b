"""Codes of 2, 3, 4 or 8 bits, packed into bytes.

A code is cut into planes, each as wide as a part of a byte: 3 bits are a plane of 2 and a plane of 1. A plane of w bits
holds 8 / w codes per byte, and its first byte holds codes that stand far apart: so each shift unpacks a run of
neighbours, which is what a processor does fast.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PLANES = {2: (2,), 3: (2, 1), 4: (4,), 8: (8,)}


def packed_width(dim: int, bits: int) -> int:
    """Bytes of ``dim`` codes."""
    return sum(-(-dim * width // 8) for width in PLANES[bits])


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes uint8 ``[..., dim]``, each below 2^bits, as bytes ``[..., packed_width(dim, bits)]``."""
    dim, shift, packed = codes.shape[-1], 0, []
    for width in PLANES[bits]:
        n_bytes = -(-dim * width // 8)
        plane = codes.new_zeros(*codes.shape[:-1], n_bytes)
        for place, run in _runs(dim, n_bytes):
            values = (codes[..., run] >> shift) & ((1 << width) - 1)
            plane[..., : values.shape[-1]] |= values << (place * width)
        packed.append(plane)
        shift += width
    return torch.cat(packed, -1) if len(packed) > 1 else packed[0]


def unpack(packed: Tensor, bits: int, out: Tensor) -> None:
    """Write the codes of bytes ``[..., packed_width(dim, bits)]`` to ``out`` ``[..., dim]``, of any type."""
    dim, first, planes = out.shape[-1], 0, PLANES[bits]
    # One plane needs no sum, and so no codes in between.
    codes = out if len(planes) == 1 else torch.zeros(out.shape, dtype=torch.uint8, device=out.device)
    shift = 0
    for width in planes:
        n_bytes = -(-dim * width // 8)
        plane, first = packed[..., first : first + n_bytes], first + n_bytes
        for place, run in _runs(dim, n_bytes):
            values = _values(plane, place * width, width)[..., : run.stop - run.start]
            if codes is out:
                codes[..., run] = values
            else:
                codes[..., run] |= values << shift
        shift += width
    if codes is not out:
        out.copy_(codes)


def _values(plane: Tensor, shift: int, width: int) -> Tensor:
    """The bits [shift, shift + width) of each byte."""
    if width == 8:
        return plane
    high = plane >> shift if shift else plane
    return high if shift + width == 8 else high & ((1 << width) - 1)


def _runs(dim: int, n_bytes: int) -> Iterator[tuple[int, slice]]:
    """For each place in a byte, the codes that the bytes of a plane hold there."""
    return ((place, slice(at, min(at + n_bytes, dim))) for place, at in enumerate(range(0, dim, n_bytes)))
