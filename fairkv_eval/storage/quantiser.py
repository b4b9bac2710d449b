"""Asymmetric uniform quantization of keys or values, block by block, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fairkv_eval.storage.packing import pack, packed_width, unpack

SCALES = torch.float16  # of a block's scale and zero: 2 bytes each
# Elements that are unpacked at a time: 16 MiB of float32 beside what is written. A GPU has memory to spare, and waits
# while the host issues many small pieces.
BLOCK_ELEMENTS = 1 << 22
BLOCK_ELEMENTS_ON_DEVICE = 1 << 28


@dataclass(frozen=True)
class Quantiser:
    """Holds entries ``[..., n, dim]`` in ``bits`` bits per channel. A block of ``tokens`` × ``channels`` (which divides
    ``dim``) has a scale s and a zero z, float16: x̂ = s·code + z, with s = (max − min) / (2^bits − 1) and z = min.

    Two tensors hold them: bytes ``[..., n, width]``, and the scales of each row of blocks, then its zeros, ``[...,
    n / tokens, 2·blocks]``. Arithmetic is in float32. Values beyond float16 are clamped to it.
    """

    bits: int
    dim: int
    tokens: int
    channels: int

    @property
    def blocks(self) -> int:
        """Blocks side by side in one entry."""
        return self.dim // self.channels

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """For each tensor: how many pairs an entry of it is for, and its width."""
        return (1, packed_width(self.dim, self.bits)), (self.tokens, 2 * self.blocks)

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        return torch.uint8, SCALES

    def nbytes(self, n: int) -> int:
        """Bytes of n entries, a multiple of ``tokens``."""
        parts = zip(self.shapes, self.dtypes, strict=True)
        return sum(n // unit * width * kind.itemsize for (unit, width), kind in parts)

    def encode(self, entries: Tensor) -> tuple[Tensor, ...]:
        """Entries ``[..., n, dim]``, n a multiple of ``tokens``, as the tensors that hold them."""
        blocks = self._blocks(entries.float())
        largest = torch.finfo(SCALES).max
        low, high = blocks.amin((-3, -1), keepdim=True), blocks.amax((-3, -1), keepdim=True)
        zero = low.clamp(-largest, largest).to(SCALES)
        scale = ((high - low) / ((1 << self.bits) - 1)).clamp(max=largest).to(SCALES)
        step = scale.float()
        codes = (blocks - zero.float()).div_(torch.where(step > 0, step, 1.0)).round_().clamp_(0, (1 << self.bits) - 1)
        scales = torch.stack([scale[..., 0, :, 0], zero[..., 0, :, 0]], -2).flatten(-2)
        return pack(codes.to(torch.uint8).reshape(entries.shape), self.bits), scales

    def decode(self, held: tuple[Tensor, ...], out: Tensor) -> None:
        """Write the entries that these tensors hold to ``out`` ``[rows or heads, ..., n, dim]``, in its type."""
        elements = BLOCK_ELEMENTS if out.device.type == "cpu" else BLOCK_ELEMENTS_ON_DEVICE
        at_once = max(1, elements // max(1, out[:1].numel()))
        for parts in zip(out.split(at_once), *(tensor.split(at_once) for tensor in held), strict=True):
            self._decode(*parts)

    def _decode(self, out: Tensor, packed: Tensor, scales: Tensor) -> None:
        wide = out if out.dtype == torch.float32 else torch.empty(out.shape, device=out.device)
        unpack(packed, self.bits, wide)
        scale, zero = scales.float().unflatten(-1, (2, self.blocks)).unbind(-2)  # [..., n / tokens, blocks]
        self._blocks(wide).mul_(scale[..., None, :, None]).add_(zero[..., None, :, None])
        if wide is not out:
            out.copy_(wide)

    def _blocks(self, entries: Tensor) -> Tensor:
        """A view ``[..., n / tokens, tokens, blocks, channels]`` of entries."""
        n_blocks = entries.shape[-2] // self.tokens
        view: Tensor = entries.unflatten(-1, (self.blocks, self.channels)).unflatten(-3, (n_blocks, self.tokens))
        return view
