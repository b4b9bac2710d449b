"""In how many bits a policy holds keys and values, which pairs of a row are packed, and how many bytes that takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.storage import hadamard
from fairkv_eval.storage.bits import KIVI, PER_TOKEN, PLAIN_BITS, ROTATED, split_bits
from fairkv_eval.storage.channels import index_dtype
from fairkv_eval.storage.quantiser import Quantiser
from fairkv_eval.storage.whole import Whole

_GROUP, _KIVI_GROUP, _KIVI_RESIDUAL = 64, 32, 128

Codec = Quantiser | Whole


@dataclass(frozen=True)
class Storage:
    """How a row holds its pairs: the oldest packed, the newest ``residual`` ones plain.

    per_token: blocks of ``group`` channels of one token. rotated: the same, of channels rotated by a randomized
    Hadamard matrix (QuaRot, arXiv 2404.00456; TurboQuant, 2504.19874, without its codebooks). kivi (2402.02750): keys
    in blocks of ``group`` tokens of one channel, values in blocks of ``group`` channels of one token; pairs are packed
    ``group`` at a time. A group of None is the default: 64 channels, or the largest part of a head below that; 32 for
    kivi. So is a residual of None: 128 for kivi, else 0. pruned: the part of each head's key channels that is not held;
    those stay in which the last ``observers`` queries (of each segment, under fair eviction) and the context's kept
    keys are largest (ThinK, arXiv 2407.21018).

    A pass sees what was stored before it and its own pairs unpacked; then the pairs that have left the window are
    packed, once. Which ones depends on the number of pairs that a row's head holds, and on nothing else.
    """

    key_bits: int = PLAIN_BITS
    value_bits: int = PLAIN_BITS
    scheme: str = PER_TOKEN
    group: int | None = None
    residual: int | None = None
    pruned: float = 0.0
    observers: int = 32

    @classmethod
    def of(cls, bits: int | str, *settings: Any, **named: Any) -> Storage:
        """The storage of ``kv_bits``, a number or asymmetric as ``k4v2``. UsageError for bits that do not exist."""
        return cls(*split_bits(bits), *settings, **named)

    @property
    def plain(self) -> bool:
        """Whether all pairs are held as the model computes them."""
        return self.key_bits == self.value_bits == PLAIN_BITS and not self.pruned

    @property
    def window(self) -> int:
        """The newest pairs of a row, which are held plain."""
        if self.residual is not None:
            return self.residual
        return _KIVI_RESIDUAL if self.scheme == KIVI else 0

    @property
    def unit(self) -> int:
        """Pairs that are packed together."""
        return (self.group or _KIVI_GROUP) if self.scheme == KIVI else 1

    def n_packed(self, n: int) -> int:
        """How many of a head's n pairs are packed, the oldest."""
        return 0 if self.plain else max(0, n - self.window) // self.unit * self.unit

    def n_channels(self, key_dim: int) -> int:
        """How many of a key's channels are held, at least one. UsageError if these are all, though some should go."""
        n_pruned = min(int(key_dim * self.pruned + 1e-6), key_dim - 1)
        if self.pruned and not n_pruned:
            raise UsageError(
                f"key_channels={self.pruned:g} prunes nothing of this model's keys, which have {key_dim} channels per "
                f"head; the smallest part that does is {1 / key_dim:g}"
            )
        return key_dim - n_pruned

    @property
    def all_channels(self) -> Storage:
        """The same storage for keys that hold all channels, as those of sliding windows do."""
        return replace(self, pruned=0.0)

    def codecs(self, key_dim: int, value_dim: int, dtype: torch.dtype) -> tuple[Codec, Codec]:
        """What packs keys and values of which so many channels are held. UsageError if they cannot be divided
        into this storage's groups."""
        return _codecs(self, key_dim, value_dim, dtype)

    def nbytes(self, n: int, key_dim: int, value_dim: int, dtype: torch.dtype) -> int:
        """Bytes of n pairs of one KV head: codes, scales and zeros of the packed ones, the others in ``dtype``; and the
        numbers of the channels, if not all are held."""
        packed = self.n_packed(n)
        newest = (n - packed) * (self.n_channels(key_dim) + value_dim) * dtype.itemsize
        return self.nbytes_packed(packed, key_dim, value_dim, dtype) + newest + self.nbytes_index(key_dim)

    def nbytes_packed(self, n: int, key_dim: int, value_dim: int, dtype: torch.dtype) -> int:
        """Bytes of n packed pairs of one KV head, a multiple of ``unit``."""
        return sum(codec.nbytes(n) for codec in self.codecs(self.n_channels(key_dim), value_dim, dtype))

    def nbytes_index(self, key_dim: int) -> int:
        """Bytes that say which channels of a head's keys are held."""
        return self.n_channels(key_dim) * index_dtype(key_dim).itemsize if self.pruned else 0

    def turned(self, entries: Tensor) -> Tensor:
        """Queries, keys or values ``[..., dim]`` as this storage holds keys and values: rotated, or as they are."""
        return hadamard.rotated(entries) if self.scheme == ROTATED and not self.plain else entries

    def turned_back(self, entries: Tensor) -> Tensor:
        """What `turned` turned, as it was."""
        return hadamard.rotated_back(entries) if self.scheme == ROTATED and not self.plain else entries


PLAIN = Storage()


@lru_cache(maxsize=64)
def _codecs(storage: Storage, key_dim: int, value_dim: int, dtype: torch.dtype) -> tuple[Codec, Codec]:
    keys, values = ("keys", key_dim, storage.key_bits), ("values", value_dim, storage.value_bits)
    if storage.scheme == ROTATED and not storage.plain:
        for name, dim, _ in (keys, values):
            if dim % hadamard.SMALLEST:
                raise UsageError(
                    f"kv_scheme=rotated needs heads whose dim is a multiple of {hadamard.SMALLEST}; the {name} of this "
                    f"model have {dim} channels"
                )
    by_channel = storage.scheme == KIVI
    return _codec(storage, *keys, dtype, by_channel), _codec(storage, *values, dtype)


def _codec(storage: Storage, name: str, dim: int, bits: int, dtype: torch.dtype, by_channel: bool = False) -> Codec:
    if bits == PLAIN_BITS:
        return Whole(dim, dtype)
    if by_channel:
        return Quantiser(bits, dim, storage.unit, 1)
    largest = storage.group or (_KIVI_GROUP if storage.scheme == KIVI else _GROUP)
    group = max(size for size in range(1, min(largest, dim) + 1) if dim % size == 0)
    if storage.group is not None and group != storage.group:
        raise UsageError(
            f"kv_group={storage.group} does not divide the {name} of this model, which have {dim} channels per head; "
            f"the nearest group that does is {group}"
        )
    return Quantiser(bits, dim, 1, group)
