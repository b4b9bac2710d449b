"""What kvpress's MergingPress and CAMPress make of kept values, written to kvpress_merging.npz next to this file.

Runs where kvpress's main branch of August 2026 is installed, or a later release that has both (it wants a transformers
older than 5.3), never in the tests:

    PYTHONPATH=tests/support python tests/golden/make_kvpress_merging.py

``merging``: a numbered model's context under MergingPress. ``<model>/<case>/<ratio>/kept`` holds the positions, int16
``[layers, kv_heads, m]`` in ascending order, ``…/values`` the values that stand there, ``[layers, kv_heads, m, dim]``.
``cam``: one compression of random pairs, ``<case>/keys`` and ``<case>/values`` ``[kv_heads, n, dim]``, ``attention``
``[kv_heads, n]``, the positions ``kept`` and those that are ``candidates``, and the kept values ``merged``. In place of
a Bernoulli draw, a pair is merged if its probability is above one half. ``about``: versions, models, cases, as JSON.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kvpress
import numpy as np
import torch
from numpy_weights import fingerprint, numbered_model, numbered_tokens
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

N = 120
MODELS = {"llama": 19, "qwen3": 20}
RATIOS = (0.5, 0.75)
PRESSES: dict[str, Any] = {
    "knorm": kvpress.KnormPress,
    "snapkv": lambda ratio: kvpress.SnapKVPress(ratio, window_size=16, kernel_size=5),
}

# Case: seed, pairs kept of N, tokens since the last eviction.
CAM = {"cam-few": (1, 60, 8), "cam-many": (2, 20, 64), "cam-end": (3, 110, 10)}
KV_HEADS, DIM = 2, 8


@torch.inference_mode()
def cached(model: PreTrainedModel, tokens: list[int], press: Any = None) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each layer ``[kv_heads, m, dim]``."""
    cache = DynamicCache()
    if press is None:
        model(torch.tensor([tokens]), past_key_values=cache)
    else:
        with press(model):
            model(torch.tensor([tokens]), past_key_values=cache)
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def places(full: Tensor, kept: Tensor) -> Tensor:
    """Where the kept keys ``[kv_heads, m, dim]`` stood among all: ``[kv_heads, m]``."""
    same = (full[:, None] == kept[:, :, None]).all(-1)
    if not (same.sum(-1) == 1).all():
        raise RuntimeError("a kept key is not that of exactly one position")
    return same.int().argmax(-1)


def merging(model: PreTrainedModel, tokens: list[int], press: Any) -> dict[str, np.ndarray]:
    index, values = [], []
    full = cached(model, tokens)
    for (keys, _), (kept_keys, kept_values) in zip(full, cached(model, tokens, press), strict=True):
        at, order = places(keys, kept_keys).sort(-1)
        index.append(at)
        values.append(kept_values.gather(1, order[..., None].expand_as(kept_values)))
    return {"kept": torch.stack(index).numpy().astype(np.int16), "values": torch.stack(values).numpy()}


def cam(seed: int, n_kept: int, n_new: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    keys, values = (torch.from_numpy(rng.standard_normal((KV_HEADS, N, DIM)).astype(np.float32)) for _ in range(2))
    attention = torch.from_numpy(rng.random((KV_HEADS, N)).astype(np.float32))
    press = kvpress.CAMPress(kvpress.KnormPress(), target_size=n_kept)
    press.layer_step_counts[0] = n_new
    press._running_attn_sum[0] = attention[None].clone()
    module = SimpleNamespace(layer_idx=0, head_dim=DIM)
    kept_keys, merged = press.compress(module, None, keys[None], values[None].clone(), attention[None], {})
    kept = places(keys, kept_keys[0])[0]
    evicted = [position for position in range(N) if position not in kept.tolist()]
    worth = (-keys.norm(dim=-1)).mean(0)
    best = sorted(evicted, key=lambda position: (float(worth[position]), position), reverse=True)[:n_new]
    return {
        "keys": keys.numpy(),
        "values": values.numpy(),
        "attention": attention.numpy(),
        "kept": kept.numpy(),
        "candidates": np.array(sorted(best)),
        "merged": merged[0].numpy(),
    }


def main() -> None:
    torch.bernoulli = lambda probability: (probability > 0.5).float()
    about: dict[str, Any] = {
        "versions": {name: version(name) for name in ("kvpress", "transformers", "torch", "numpy")},
        "n": N,
        "models": {},
        "ratios": RATIOS,
        "presses": {"knorm": {}, "snapkv": {"window": 16, "kernel": 5}},
        "cam": list(CAM),
    }
    arrays = {}
    for kind, seed in MODELS.items():
        model, tokens = numbered_model(kind, seed), numbered_tokens(N, seed)
        about["models"][kind] = {"seed": seed, "fingerprint": fingerprint(model)}
        for name, make in PRESSES.items():
            for ratio in RATIOS:
                results = merging(model, tokens, kvpress.MergingPress(make(ratio)))
                arrays |= {f"{kind}/{name}/{ratio}/{key}": array for key, array in results.items()}
    for case, entries in CAM.items():
        arrays |= {f"{case}/{key}": array for key, array in cam(*entries).items()}
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(Path(__file__).parent / "kvpress_merging.npz", **arrays)


if __name__ == "__main__":
    main()
