"""KV pairs of a context or row in one layer: plain, or the oldest packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fairkv_eval.storage.channels import Channels
from fairkv_eval.storage.storage import PLAIN, Codec, Storage


class Pairs(NamedTuple):
    """KV pairs of consecutive KV heads that hold equally many: keys and values ``[heads, m, dim]``."""

    keys: Tensor
    values: Tensor

    @property
    def storage(self) -> Storage:
        return PLAIN

    @property
    def heads(self) -> int:
        return self.keys.shape[0]

    @property
    def length(self) -> int:
        """Pairs of each head."""
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes

    def plain(self) -> Pairs:
        """These pairs."""
        return self

    def extended(self, newer: Pairs) -> Pairs:
        """These pairs and newer ones of the same heads."""
        return Pairs(torch.cat([self.keys, newer.keys], 1), torch.cat([self.values, newer.values], 1))

    def by_head(self) -> list[Pairs]:
        """The same pairs, head by head."""
        return [Pairs(k, v) for k, v in zip(self.keys.split(1), self.values.split(1), strict=True)]

    def emptied(self, heads: int) -> Pairs:
        """Pairs of so many heads, of the same dims, type and device, that hold nothing."""
        return Pairs(*(t.new_empty(heads, 0, t.shape[2]) for t in self))


@dataclass(frozen=True, eq=False)
class PackedPairs:
    """KV pairs of consecutive KV heads that hold equally many, the oldest packed.

    ``keys`` and ``values`` are the tensors of the storage's codecs, each ``[heads, n, width]``; ``newest`` are the
    pairs in the window, plain, but turned as the storage turns them. ``channels``: those of the keys that are held,
    packed or newest, if not all are.
    """

    storage: Storage
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    newest: Pairs
    channels: Channels | None = None

    @property
    def heads(self) -> int:
        return self.newest.heads

    @property
    def n_packed(self) -> int:
        return self.keys[0].shape[1]

    @property
    def length(self) -> int:
        """Pairs of each head."""
        return self.n_packed + self.newest.length

    @property
    def nbytes(self) -> int:
        index = self.channels.nbytes if self.channels else 0
        return self.newest.nbytes + sum(part.nbytes for part in (*self.keys, *self.values)) + index

    @property
    def codecs(self) -> tuple[Codec, Codec]:
        return codecs_of(self.storage, self.newest)

    def plain(self) -> Pairs:
        """The pairs as the model would have computed them, but for what packing has lost."""
        unpacked = []
        for codec, packed, newest in zip(self.codecs, (self.keys, self.values), self.newest, strict=True):
            out = newest.new_empty(self.heads, self.length, newest.shape[2])
            codec.decode(packed, out[:, : self.n_packed])
            out[:, self.n_packed :] = newest
            unpacked.append(self.storage.turned_back(out))
        keys, values = unpacked
        return Pairs(self.channels.filled(keys) if self.channels else keys, values)

    def extended(self, newer: Pairs) -> PackedPairs:
        """These pairs and newer ones of the same heads; what leaves the window is packed."""
        if self.channels:
            newer = Pairs(self.channels.of(newer.keys), newer.values)
        plain = self.newest.extended(Pairs(*map(self.storage.turned, newer)))
        n_new = self.storage.n_packed(self.n_packed + plain.length) - self.n_packed
        keys, values = (
            tuple(torch.cat(parts, 1) for parts in zip(old, codec.encode(entries[:, :n_new]), strict=True))
            for codec, old, entries in zip(self.codecs, (self.keys, self.values), plain, strict=True)
        )
        # A copy, since a view would keep the packed pairs alive.
        newest = Pairs(*(entries[:, n_new:].clone() for entries in plain))
        return PackedPairs(self.storage, keys, values, newest, self.channels)

    def by_head(self) -> list[PackedPairs]:
        """The same pairs, head by head."""
        parts = [part.split(1) for part in (*self.keys, *self.values)]
        n = len(self.keys)
        channels: list[Channels | None] = [*self.channels.by_head()] if self.channels else [None] * self.heads
        return [
            PackedPairs(self.storage, tensors[:n], tensors[n:], newest, of_head)
            for tensors, newest, of_head in zip(zip(*parts, strict=True), self.newest.by_head(), channels, strict=True)
        ]

    def emptied(self, heads: int) -> PackedPairs:
        """Pairs of so many heads, of the same dims, type and device, that hold nothing."""
        keys, values = (tuple(t.new_empty(heads, 0, t.shape[2]) for t in parts) for parts in (self.keys, self.values))
        channels = self.channels and self.channels.emptied(heads)
        return PackedPairs(self.storage, keys, values, self.newest.emptied(heads), channels)


Stored = Pairs | PackedPairs


def store(storage: Storage, pairs: Pairs, votes: Tensor | None = None, observed: Tensor | None = None) -> Stored:
    """Pairs as a storage holds them. UsageError if it cannot hold pairs of these dims.

    votes: see `channel_votes`; needed by a storage that prunes channels. observed: the keys ``[kv_heads, n, dim]`` that
    channels are chosen for, those of the pairs if absent.
    """
    if storage.plain:
        return pairs
    nothing, channels = pairs.emptied(pairs.heads), None
    if storage.pruned:
        assert votes is not None
        keys = pairs.keys if observed is None else observed
        channels = Channels.chosen(keys, votes, storage.n_channels(keys.shape[2]))
        nothing = Pairs(channels.of(nothing.keys), nothing.values)
    packed_keys, packed_values = (
        codec.encode(entries) for codec, entries in zip(codecs_of(storage, nothing), nothing, strict=True)
    )
    return PackedPairs(storage, packed_keys, packed_values, nothing, channels).extended(pairs)


def codecs_of(storage: Storage, pairs: Pairs) -> tuple[Codec, Codec]:
    """What packs keys and values of the held dims and type of these."""
    return storage.codecs(pairs.keys.shape[2], pairs.values.shape[2], pairs.keys.dtype)
