"""The KV pairs that an eviction leaves, and their keys at consecutive positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.storage.pairs import Pairs


def survivors(layer: Layer, index: Sequence[Tensor]) -> list[Pairs]:
    """The pairs at these positions: index is one int64 ``[kv_heads, m]``, or one ``[1, m_h]`` per head."""
    heads = [len(positions) for positions in index]
    return [
        Pairs(_pick(k, positions), _pick(v, positions))
        for k, v, positions in zip(layer.k.split(heads), layer.v.split(heads), index, strict=True)
    ]


def consecutive(layer: Layer, pairs: Pairs, positions: Tensor, stop: int) -> Pairs:
    """Pairs whose keys stand at ``positions`` ``[kv_heads, m]``, turned to positions stop − m … stop − 1."""
    rotation = check_rotation(layer)
    to = torch.arange(stop - pairs.keys.shape[1], stop, device=positions.device)
    return Pairs(rotation.rotate(pairs.keys, to - positions), pairs.values)


def check_rotation(layer: Layer) -> Rotation:
    """How a layer turns its keys; UsageError if that is not known."""
    if layer.rotation is None:
        raise UsageError(f"positions=contiguous: how layer {layer.index} turns its keys by position is not known")
    return layer.rotation


def _pick(entries: Tensor, index: Tensor) -> Tensor:
    """The entries at these positions, head by head: ``[heads, n, dim]`` and ``[heads, m]``."""
    return entries.gather(1, index[:, :, None].expand(-1, -1, entries.shape[2]))
