"""Random queries, keys and values as the backends get them, and how close outputs must be."""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Attending, Step, VisibleRows

SCALING = 0.3


DIM = 8


def drawn(*shape: int, seed: int = 0, **kind) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(**kind)


def sequences(sizes: list[tuple[int, int]], heads: list[int], group: int, dim: int = DIM, **kind) -> list[Attending]:
    """Sequences that ask m queries after ``before`` keys, of so many KV heads each."""
    return [
        (
            drawn(kv * group, m, dim, seed=3 * i, **kind),
            # As a model gives them: heads are a view of what is packed by token.
            drawn(before + m, kv, dim, seed=3 * i + 1, **kind).transpose(0, 1),
            drawn(kv, before + m, dim, seed=3 * i + 2, **kind),
        )
        for i, ((m, before), kv) in enumerate(zip(sizes, heads, strict=True))
    ]


def shown(lengths: list[int], heads: int, window: int | None, room: int = 5, dim: int = DIM, **kind) -> VisibleRows:
    """Rows that have just been given their last entry; beyond it lies what must not be seen."""
    kind = {"device": "cpu", **kind}
    capacity = max(lengths) + room
    keys, values = (drawn(len(lengths) + 1, heads, capacity, dim, seed=seed, **kind) for seed in (1, 2))
    step = Step.of([n - 1 for n in lengths], window, torch.device(kind["device"]))
    return VisibleRows(slice(0, heads), keys[:-1], values[:-1], step)


def close(found, expected, atol: float = 1e-5) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a.float(), b.float(), atol=atol, rtol=atol)
