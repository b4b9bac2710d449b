"""Key channels: which ones are held, against loops and kvpress's ThinKPress, and the bytes of what holds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fairkv_eval.engine.packed_buffer import PackedBuffer, Scratch
from fairkv_eval.storage.channels import Channels
from fairkv_eval.storage.pairs import Pairs, store
from fairkv_eval.storage.storage import Storage

# ThinKPress on the tensors of this file, by `golden/make_kvpress_channels.py`.
REFERENCE = dict(np.load(Path(__file__).parents[1] / "golden" / "kvpress_channels.npz"))
CASES = sorted({name.split("/")[0] for name in REFERENCE})
HEADS, KV_HEADS, DIM = 4, 2, 10


def drawn(n: int, heads: int = KV_HEADS, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(heads, n, DIM, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_the_largest_channels_by_loops() -> None:
    keys, queries = drawn(7), drawn(5, HEADS, 1)
    channels = Channels.chosen(keys, queries, 4)
    for head in range(KV_HEADS):
        worth = []
        for c in range(DIM):
            of_queries = sum(float(queries[h, i, c]) ** 2 for h in (2 * head, 2 * head + 1) for i in range(5))
            worth.append(of_queries * sum(float(keys[head, j, c]) ** 2 for j in range(7)))
        assert channels.index[head].tolist() == sorted(sorted(range(DIM), key=lambda c: -worth[c])[:4])
    held = channels.of(keys)
    for head in range(KV_HEADS):
        index = channels.index[head].tolist()
        assert torch.equal(held[head], keys[head][:, index])
        filled = channels.filled(held)[head]
        assert torch.equal(filled[:, index], keys[head][:, index])
        assert not filled[:, [c for c in range(DIM) if c not in index]].any()


@pytest.mark.parametrize("case", CASES)
def test_the_channels_of_kvpress(case: str) -> None:
    keys, queries, theirs = (torch.from_numpy(REFERENCE[f"{case}/{name}"]) for name in ("keys", "queries", "pruned"))
    share = float(REFERENCE[f"{case}/share"])
    storage = Storage(pruned=share, observers=queries.shape[1])
    kept = store(storage, Pairs(keys, keys), queries).plain().keys
    assert torch.equal(kept, theirs)
    assert 0 < (theirs == 0).sum() == keys.shape[0] * keys.shape[1] * int(keys.shape[2] * share)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "storage",
    [
        Storage(pruned=0.3),
        Storage.of(4, pruned=0.5, residual=3),
        Storage.of("k8v16", pruned=0.2, group=2),
        Storage.of(2, "kivi", pruned=0.4, group=2, residual=4),
    ],
)
def test_bytes_are_those_of_the_tensors(storage: Storage, dtype: torch.dtype) -> None:
    for n in (0, 1, 4, 9, 30):
        pairs, queries = Pairs(drawn(n, dtype=dtype), drawn(n, seed=1, dtype=dtype)), drawn(5, HEADS, 2, dtype)
        held = store(storage, pairs, queries)
        assert held.nbytes == KV_HEADS * storage.nbytes(n, DIM, DIM, dtype)
        assert held.nbytes == sum(part.nbytes for part in held.by_head())
        later = held.extended(Pairs(*(entries[:, :1] for entries in (drawn(1, seed=3, dtype=dtype),) * 2)))
        assert later.nbytes == KV_HEADS * storage.nbytes(n + 1, DIM, DIM, dtype) and later.channels is held.channels


def test_bytes_of_a_third_less() -> None:
    """Of 10 channels 7, with a byte for the number of each."""
    assert Storage(pruned=0.3).nbytes(100, 10, 10, torch.float32) == 100 * (7 + 10) * 4 + 7
    assert Storage(pruned=0.3).nbytes(100, 512, 10, torch.float16) == 100 * (359 + 10) * 2 + 2 * 359
    assert Storage(pruned=0.29).n_channels(100) == 71


def test_a_row_that_moves_to_another_slot_takes_its_channels_along() -> None:
    storage = Storage(pruned=0.5)
    rows = [store(storage, Pairs(drawn(4, seed=s), drawn(4, seed=s + 9)), drawn(3, HEADS, s)) for s in (1, 2, 3)]
    buffer = PackedBuffer(rows[0], 1, Scratch())
    for slot, row in enumerate(rows):
        buffer.write(slot, row)
    buffer.move(2, 0)
    for slot, row in enumerate((rows[2], rows[1])):
        assert torch.equal(buffer.read(slot).plain().keys, row.plain().keys)
    assert buffer.nbytes_held == sum(row.nbytes for row in rows[1:])
