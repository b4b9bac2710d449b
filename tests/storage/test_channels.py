"""Key channels: which ones are held, against loops and kvpress's ThinKPress, and the bytes of what holds them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from layer_recorder import record
from numpy_weights import LAYERS, fingerprint, numbered_model, numbered_tokens

from fairkv_eval.attention.seam import attach
from fairkv_eval.engine.packed_buffer import PackedBuffer, Scratch
from fairkv_eval.engine.survivors import survivors
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.storage.channels import Channels, channel_votes
from fairkv_eval.storage.pairs import Pairs, store
from fairkv_eval.storage.storage import Storage

# ThinKPress on numbered models, by `golden/make_kvpress_channels.py`.
REFERENCE = dict(np.load(Path(__file__).parents[1] / "golden" / "kvpress_channels.npz"))
ABOUT = json.loads(str(REFERENCE["about"]))
HEADS, KV_HEADS, DIM = 4, 2, 10


def drawn(n: int, heads: int = KV_HEADS, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(heads, n, DIM, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("ranges", [[(0, 9)], [(0, 4), (4, 5), (5, 9)]])
def test_the_largest_channels_by_loops(ranges: list[tuple[int, int]]) -> None:
    keys, queries = drawn(7), drawn(9, HEADS, 1)
    channels = Channels.chosen(keys, channel_votes(queries, KV_HEADS, ranges, 3), 4)
    for head in range(KV_HEADS):
        worth = []
        for c in range(DIM):
            of_queries = 0.0
            for a, b in ranges:
                last = range(max(a, b - 3), b)
                squares = [float(queries[h, i, c]) ** 2 for h in (2 * head, 2 * head + 1) for i in last]
                of_queries += sum(squares) / len(squares)
            worth.append(of_queries * sum(float(keys[head, j, c]) ** 2 for j in range(7)))
        assert channels.index[head].tolist() == sorted(sorted(range(DIM), key=lambda c: -worth[c])[:4])
    held = channels.of(keys)
    for head in range(KV_HEADS):
        index = channels.index[head].tolist()
        assert torch.equal(held[head], keys[head][:, index])
        filled = channels.filled(held)[head]
        assert torch.equal(filled[:, index], keys[head][:, index])
        assert not filled[:, [c for c in range(DIM) if c not in index]].any()


@cache
def layers_of(kind: str) -> list[Layer]:
    """The layers of the model and context that kvpress ran."""
    about = ABOUT["models"][kind]
    model = numbered_model(kind, about["seed"])
    assert fingerprint(model) == about["fingerprint"]
    attach(model)
    return record(model, numbered_tokens(ABOUT["n"], about["seed"]))


@pytest.mark.parametrize("part", ABOUT["parts"])
@pytest.mark.parametrize("case", ABOUT["cases"])
@pytest.mark.parametrize("kind", ABOUT["models"])
def test_the_channels_of_kvpress(kind: str, case: str, part: float) -> None:
    n, policy = ABOUT["n"], Policy.of({**ABOUT["cases"][case], "key_channels": part})
    for layer in layers_of(kind):
        index = Plan(policy, (), n, range(LAYERS)).choose(layer) if policy.evicts else [torch.arange(n).expand(2, -1)]
        (pairs,) = survivors(layer, index)
        votes = channel_votes(layer.q, layer.kv_heads, [(0, n)], policy.key_window)
        ours = store(policy.storage, pairs, votes).channels.index
        theirs = REFERENCE[f"{kind}/{case}/{part}"][layer.index]
        assert ours.tolist() == [row.nonzero()[0].tolist() for row in theirs]


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
        pairs, votes = Pairs(drawn(n, dtype=dtype), drawn(n, seed=1, dtype=dtype)), torch.rand(KV_HEADS, DIM)
        held = store(storage, pairs, votes)
        assert held.nbytes == KV_HEADS * storage.nbytes(n, DIM, DIM, dtype)
        assert held.nbytes == sum(part.nbytes for part in held.by_head())
        later = held.extended(Pairs(*(entries[:, :1] for entries in (drawn(1, seed=3, dtype=dtype),) * 2)))
        assert later.nbytes == KV_HEADS * storage.nbytes(n + 1, DIM, DIM, dtype) and later.channels is held.channels


def test_bytes_of_a_third_less() -> None:
    """Of 10 channels 7, with a byte for the number of each."""
    assert Storage(pruned=0.3).nbytes(100, 10, 10, torch.float32) == 100 * (7 + 10) * 4 + 7
    assert Storage(pruned=0.3).nbytes(100, 512, 10, torch.float16) == 100 * (359 + 10) * 2 + 2 * 359
    assert Storage(pruned=0.29).n_channels(100) == 71
    assert Storage(pruned=0.999999999).n_channels(16) == 1


def test_a_row_that_moves_to_another_slot_takes_its_channels_along() -> None:
    storage = Storage(pruned=0.5)
    rows = [
        store(storage, Pairs(drawn(4, seed=s), drawn(4, seed=s + 9)), drawn(1, seed=s)[:, 0].abs()) for s in (1, 2, 3)
    ]
    buffer = PackedBuffer(rows[0], 1, Scratch())
    for slot, row in enumerate(rows):
        buffer.write(slot, row)
    buffer.move(2, 0)
    for slot, row in enumerate((rows[2], rows[1])):
        assert torch.equal(buffer.read(slot).plain().keys, row.plain().keys)
    assert buffer.nbytes_held == sum(row.nbytes for row in rows[1:])


def test_a_part_that_prunes_nothing_is_refused() -> None:
    message = r"key_channels=0\.05 prunes nothing .* 16 channels per head; the smallest part that does is 0\.0625"
    with pytest.raises(UsageError, match=message):
        Storage(pruned=0.05).n_channels(16)
