"""Which channels of a head's keys are held, if not all are (ThinK, arXiv 2407.21018)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Channels:
    """The channels that keys are held in: ``index`` ``[..., heads, kept]``, ascending, of ``dim`` channels."""

    index: Tensor
    dim: int

    @classmethod
    def chosen(cls, keys: Tensor, votes: Tensor, kept: int) -> Channels:
        """The channels in which queries and keys are largest: of keys ``[kv_heads, n, dim]`` by |q|·|k| over the
        tokens, with the ``votes`` of queries; among equals the first."""
        worth = votes * _wide(keys).square().sum(1)
        best = worth.argsort(dim=-1, descending=True, stable=True)[:, :kept].sort(-1).values
        return cls(best.to(index_dtype(keys.shape[2])), keys.shape[2])

    @property
    def nbytes(self) -> int:
        return self.index.nbytes

    def by_head(self) -> list[Channels]:
        """The same channels, head by head."""
        return [Channels(index, self.dim) for index in self.index.split(1)]

    def emptied(self, heads: int) -> Channels:
        """Room for the channels of so many heads."""
        return Channels(self.index.new_zeros(heads, self.index.shape[-1]), self.dim)

    def in_slots(self, slots: int) -> Channels:
        """Room for as many heads in each of so many slots: ``[slots, heads, kept]``."""
        return Channels(self.index.new_zeros(slots, *self.index.shape), self.dim)

    def in_slot(self, slot: int) -> Channels:
        return Channels(self.index[slot], self.dim)

    def first(self, rows: int) -> Channels:
        """Those of the first slots."""
        return Channels(self.index[:rows], self.dim)

    def resized(self, slots: int) -> Channels:
        """The same with exactly so many slots."""
        n = min(slots, len(self.index))
        index = self.index.new_zeros(slots, *self.index.shape[1:])
        index[:n] = self.index[:n]
        return Channels(index, self.dim)

    def of(self, keys: Tensor) -> Tensor:
        """These channels of keys ``[..., heads, n, dim]``: ``[..., heads, n, kept]``."""
        return keys.gather(-1, self._index(keys.shape[-2]))

    def filled(self, held: Tensor) -> Tensor:
        """Keys ``[..., heads, n, kept]`` with zeros in the other channels: ``[..., heads, n, dim]``."""
        full = held.new_zeros(*held.shape[:-1], self.dim)
        return full.scatter_(-1, self._index(held.shape[-2]), held)

    def _index(self, n: int) -> Tensor:
        index = self.index.long()[..., None, :]
        return index.expand(*index.shape[:-2], n, -1)


def channel_votes(queries: Tensor, kv_heads: int, ranges: Sequence[tuple[int, int]], window: int) -> Tensor:
    """How large queries ``[heads, n, dim]`` are in each channel: ``[kv_heads, dim]``, float32 at least.

    That is the mean square over the last ``window`` queries of each range of tokens, over the heads of a group, and
    over the ranges, which count alike: one for the whole context, or one for each segment under fair eviction.
    """
    last = [_wide(queries[:, max(start, stop - window) : stop]).square().mean(1) for start, stop in ranges]
    votes: Tensor = torch.stack(last).mean(0).unflatten(0, (kv_heads, -1)).mean(1)
    return votes


def _wide(entries: Tensor) -> Tensor:
    return entries.to(torch.promote_types(entries.dtype, torch.float32))


def index_dtype(dim: int) -> torch.dtype:
    """The smallest type that counts so many channels."""
    return torch.uint8 if dim <= 256 else torch.int16
