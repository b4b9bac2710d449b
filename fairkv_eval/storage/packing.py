"""Codes of 2, 3, 4 or 8 bits, packed into bytes.

A code is cut into planes, each as wide as a part of a byte: 3 bits are a plane of 2 and a plane of 1. A plane of w bits
holds 8 / w codes per byte, and a byte holds codes that stand far apart: so one shift of a plane unpacks a run of
neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

PLANES = {2: (2,), 3: (2, 1), 4: (4,), 8: (8,)}
# Bytes are unpacked in the widest words that their places in memory allow: shifts of single bytes are slow.
_WORDS = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8}


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
    dim, first, shift = out.shape[-1], 0, 0
    codes: Tensor | None = None
    for width in PLANES[bits]:
        n_bytes = -(-dim * width // 8)
        part = _spread(packed[..., first : first + n_bytes], width, shift)[..., :dim]
        codes = part if codes is None else codes.bitwise_or_(part)
        first, shift = first + n_bytes, shift + width
    assert codes is not None
    out.copy_(codes)


def _spread(plane: Tensor, width: int, shift: int) -> Tensor:
    """The codes of a plane, moved up by ``shift`` bits: uint8 ``[..., bytes · 8 / width]``."""
    if width == 8:
        return plane
    strides = (plane.shape[-1], plane.storage_offset(), *plane.stride()[:-1])
    size = next(size for size in _WORDS if not any(stride % size for stride in strides))
    words = plane.view(_WORDS[size])
    spread = torch.empty(*words.shape[:-1], 8 // width, words.shape[-1], dtype=words.dtype, device=words.device)
    for place in range(8 // width):
        torch.bitwise_right_shift(words, place * width, out=spread[..., place, :])
    spread.bitwise_and_(int.from_bytes(bytes([(1 << width) - 1]) * size, "little"))
    if shift:
        spread.bitwise_left_shift_(shift)
    return spread.view(torch.uint8).flatten(-2)


def _runs(dim: int, n_bytes: int) -> Iterator[tuple[int, slice]]:
    """For each place in a byte, the codes that the bytes of a plane hold there."""
    return ((place, slice(at, min(at + n_bytes, dim))) for place, at in enumerate(range(0, dim, n_bytes)))
