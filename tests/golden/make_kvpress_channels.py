"""Which key channels kvpress's ThinKPress leaves, alone and behind another press, written to kvpress_channels.npz next
to this file.

Runs where kvpress's main branch of August 2026 is installed, or a later release (it wants a transformers older than
5.3), never in the tests:

    PYTHONPATH=tests/support python tests/golden/make_kvpress_channels.py

``<model>/<case>/<part>``: boolean ``[layers, kv_heads, dim]``, True for the channels that are left of a numbered
model's context if this part of them is pruned. ``about``: versions, models, cases, as JSON.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kvpress
import numpy as np
import torch
from numpy_weights import fingerprint, numbered_model, numbered_tokens
from transformers import DynamicCache, PreTrainedModel

N = 120
MODELS = {"llama": 19, "qwen3": 20}
PARTS = (0.25, 0.4, 0.5, 0.75)
# Case: what evicts before, how it is called here, and the queries that vote.
CASES: dict[str, tuple[Any, dict[str, Any], int]] = {
    "alone": (None, {}, 32),
    "alone-few": (None, {}, 5),
    "knorm": (lambda: kvpress.KnormPress(0.5), {"press": "knorm", "ratio": 0.5}, 32),
    "snapkv": (
        lambda: kvpress.SnapKVPress(0.75, window_size=16, kernel_size=5),
        {"press": "snapkv", "window": 16, "kernel": 5, "ratio": 0.75},
        32,
    ),
}


@torch.inference_mode()
def channels_left(model: PreTrainedModel, tokens: list[int], press: Any) -> np.ndarray:
    cache = DynamicCache()
    with press(model):
        model(torch.tensor([tokens]), past_key_values=cache)
    return torch.stack([(layer.keys[0] != 0).any(1) for layer in cache.layers]).numpy()


def press_of(case: str, part: float) -> Any:
    make, _, window = CASES[case]
    think = kvpress.ThinKPress(key_channel_compression_ratio=part, window_size=window)
    return kvpress.ComposedPress([make(), think]) if make else think


def main() -> None:
    about: dict[str, Any] = {
        "versions": {name: version(name) for name in ("kvpress", "transformers", "torch", "numpy")},
        "n": N,
        "models": {},
        "parts": PARTS,
        "cases": {name: {**typed, "key_window": window} for name, (_, typed, window) in CASES.items()},
    }
    arrays = {}
    for kind, seed in MODELS.items():
        model, tokens = numbered_model(kind, seed), numbered_tokens(N, seed)
        about["models"][kind] = {"seed": seed, "fingerprint": fingerprint(model)}
        for case in CASES:
            for part in PARTS:
                arrays[f"{kind}/{case}/{part}"] = channels_left(model, tokens, press_of(case, part))
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(Path(__file__).parent / "kvpress_channels.npz", **arrays)


if __name__ == "__main__":
    main()
