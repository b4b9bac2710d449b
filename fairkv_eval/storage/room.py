"""How many pairs of a context a number of bytes has room for, in a given storage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from fairkv_eval.storage.storage import Storage


class Entry(NamedTuple):
    """What one token adds to a layer: a key and a value of these dims and this type for each KV head. ``window``: the
    layer's sliding window, or None."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: torch.dtype
    window: int | None = None

    def nbytes(self, n: int, storage: Storage) -> int:
        """Bytes that n tokens take in a storage. Keys of a sliding window hold all channels."""
        storage = storage if self.window is None else storage.all_channels
        return self.kv_heads * storage.nbytes(n, self.key_dim, self.value_dim, self.dtype)

    def nbytes_plain(self, n: int) -> int:
        """Bytes that n tokens take plain."""
        return n * self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.itemsize

    def nbytes_at_most(self, mean: int, storage: Storage) -> int:
        """Bytes that heads with so many tokens on average take at most, however the tokens are divided among them.

        That is more than `nbytes` only if pairs are packed several at a time: any head's newest pairs may wait for
        that, plain.
        """
        unit = storage.unit
        plain = unit * (storage.n_channels(self.key_dim) + self.value_dim) * self.dtype.itemsize
        packed = storage.nbytes_packed(unit, self.key_dim, self.value_dim, self.dtype)
        n_plain = mean if storage.plain else 0 if packed > plain else min(mean, storage.window + unit - 1)
        pairs = -(-self.kv_heads * (n_plain * plain + (mean - n_plain) * packed) // unit)
        return pairs + self.kv_heads * storage.nbytes_index(self.key_dim)

    def held(self, n: int) -> int:
        """Tokens of n that the layer holds without eviction."""
        return n if self.window is None else min(n, self.window)


def nbytes_full(entries: Sequence[Entry], n: int) -> int:
    """Bytes of a context of n tokens in the full cache; a sliding window holds no more than itself."""
    return sum(entry.nbytes_plain(entry.held(n)) for entry in entries)


def nbytes_with(entries: Sequence[Entry], n: int, kept: int, storage: Storage) -> int:
    """Bytes of a context of n tokens of which all heads of the layers that evict keep equally many."""
    return sum(entry.nbytes(kept if entry.window is None else entry.held(n), storage) for entry in entries)


def most_pairs(entries: Sequence[Entry], n: int, nbytes: int, storage: Storage, evenly: bool) -> int:
    """The most pairs of n that every head of the layers that evict can keep within so many bytes; on average, unless
    they keep ``evenly`` many. Sliding windows count. -1 if these alone take more."""
    rest = nbytes - sum(entry.nbytes(entry.held(n), storage) for entry in entries if entry.window is not None)
    evicting = [entry for entry in entries if entry.window is None]
    if rest < 0:
        return -1
    if evenly:
        return _most(n, storage.unit, rest, lambda m: sum(entry.nbytes(m, storage) for entry in evicting))
    # A layer may keep more than its part, so each counts as the largest.
    largest = [max(evicting, key=lambda entry: entry.nbytes_plain(1))] * len(evicting) if evicting else []
    return _most(n, 1, rest, lambda m: sum(entry.nbytes_at_most(m, storage) for entry in largest))


def _most(n: int, unit: int, limit: int, nbytes: Callable[[int], int]) -> int:
    """The largest of 0 … n with at most so many bytes. A pair more can be fewer bytes, if with it a unit is packed; a
    unit more never is."""
    most = 0
    for first in range(min(unit, n + 1)):
        counts = range(first, n + 1, unit)
        place = bisect_right(counts, limit, key=nbytes)
        most = max(most, counts[place - 1] if place else 0)
    return most
