"""What kvpress keeps of one context in tiny numbered models, written to kvpress_reference.npz next to this file.

Runs where kvpress is installed, never in the tests (kvpress 0.5.5 wants a transformers older than 5.3):

    pip install kvpress==0.5.5 numpy
    PYTHONPATH=tests/support python tests/golden/make_kvpress_reference.py

The file holds, as boolean ``[layers, kv_heads, n]`` under ``kept/<model>/<case>/<ratio>``, which positions survive;
under ``logits/<model>`` the last token's logits after an uncompressed pass, ``[vocabulary]``; and under ``about``, as
JSON, versions, models and what each case is called here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kvpress
import numpy as np
import torch
from numpy_weights import fingerprint, numbered_model, numbered_tokens
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

N = 300

# Kind: seed of its weights and of its context. Seeds are chosen so that the scores on the two sides of each budget's
# edge are well apart and rounding decides nothing.
MODELS = {"llama": 19, "qwen3": 20}

# n·(1−ratio) of the first is a whole number in binary fractions too; of the last, 60, it is 59.999….
EXACT_RATIOS = (0.25, 0.5, 0.75)
INEXACT_RATIO = 0.8

Make = Callable[[float], Any]


def _snapkv(ratio: float) -> Any:
    return kvpress.SnapKVPress(ratio, window_size=16, kernel_size=5)


# Case: press here, its base, parameters here, and the press there at a ratio.
CASES: dict[str, tuple[str, str | None, dict[str, float], Make]] = {
    "streaming_llm": ("streaming_llm", None, {"sinks": 4}, lambda r: kvpress.StreamingLLMPress(r, n_sink=4)),
    "snapkv": ("snapkv", None, {"window": 16, "kernel": 5}, _snapkv),
    "tova": ("tova", None, {}, kvpress.TOVAPress),
    "knorm": ("knorm", None, {}, kvpress.KnormPress),
    "h2o": ("h2o", None, {}, kvpress.ObservedAttentionPress),
    "keydiff": ("keydiff", None, {}, kvpress.KeyDiffPress),
    "expected_attention": (
        "expected_attention",
        None,
        {"sinks": 4, "horizon": 512},
        lambda r: kvpress.ExpectedAttentionPress(r, n_future_positions=512, n_sink=4),
    ),
    **{
        f"lagkv-{lag}": (
            "lagkv",
            None,
            {"sinks": 4, "lag": lag},
            lambda r, lag=lag: kvpress.LagKVPress(r, n_sink=4, lag_size=lag),
        )
        for lag in (32, 128, 200)
    },
    **{
        f"pyramidkv-{beta}": (
            "pyramidkv",
            None,
            {"window": 16, "kernel": 5, "beta": beta},
            lambda r, beta=beta: kvpress.PyramidKVPress(r, window_size=16, kernel_size=5, beta=beta),
        )
        for beta in (3, 20)
    },
    "adakv-snapkv": (
        "adakv",
        "snapkv",
        {"window": 16, "kernel": 5, "safeguard": 0.2},
        lambda r: kvpress.AdaKVPress(_snapkv(r), alpha_safeguard=0.2),
    ),
    **{
        f"adakv-knorm-{safeguard}": (
            "adakv",
            "knorm",
            {"safeguard": safeguard},
            lambda r, safeguard=safeguard: kvpress.AdaKVPress(kvpress.KnormPress(r), alpha_safeguard=safeguard),
        )
        for safeguard in (0.2, 0.9)
    },
    **{
        f"chunkkv-snapkv-{chunk}": (
            "chunkkv",
            "snapkv",
            {"window": 16, "kernel": 5, "chunk": chunk},
            lambda r, chunk=chunk: kvpress.ChunkKVPress(_snapkv(r), chunk_length=chunk),
        )
        for chunk in (20, 32)
    },
    "chunkkv-knorm": (
        "chunkkv",
        "knorm",
        {"chunk": 20},
        lambda r: kvpress.ChunkKVPress(kvpress.KnormPress(r), chunk_length=20),
    ),
}


@torch.inference_mode()
def uncompressed(model: PreTrainedModel, tokens: list[int]) -> tuple[list[Tensor], Tensor]:
    """The keys of each layer, ``[kv_heads, n, dim]``, and the last token's logits."""
    cache = DynamicCache()
    logits = model(torch.tensor([tokens]), past_key_values=cache).logits[0, -1]
    return [layer.keys[0] for layer in cache.layers], logits


@torch.inference_mode()
def survivors(model: PreTrainedModel, tokens: list[int], press: Any, full: list[Tensor]) -> np.ndarray:
    """Boolean ``[layers, kv_heads, n]``: the positions whose keys are still there, or are not masked."""
    cache = DynamicCache()
    with press(model):
        model(torch.tensor([tokens]), past_key_values=cache)
    rows = []
    for layer, before in enumerate(full):
        if isinstance(press, kvpress.AdaKVPress):
            kept = torch.ones(before.shape[:2], dtype=torch.bool)
            _, heads, positions = model.model.layers[layer].self_attn.masked_key_indices
            kept[heads, positions] = False
        else:
            after = cache.layers[layer].keys[0]
            same = (before[:, :, None] == after[:, None]).all(-1)  # [kv_heads, n, m]
            if not (same.sum(1) == 1).all():
                raise RuntimeError(f"layer {layer}: a kept key is not that of exactly one position")
            kept = same.any(-1)
        rows.append(kept)
    return torch.stack(rows).numpy()


def main() -> None:
    about: dict[str, Any] = {
        "versions": {name: version(name) for name in ("kvpress", "transformers", "torch", "numpy")},
        "n": N,
        "exact_ratios": EXACT_RATIOS,
        "inexact_ratio": INEXACT_RATIO,
        "models": {},
        "cases": {name: {"press": p, "base": b, "parameters": given} for name, (p, b, given, _) in CASES.items()},
    }
    arrays = {}
    for kind, seed in MODELS.items():
        model, tokens = numbered_model(kind, seed), numbered_tokens(N, seed)
        about["models"][kind] = {"seed": seed, "fingerprint": fingerprint(model)}
        for name, (press, _, _, make) in CASES.items():
            # Eager attention is the one that shows its weights, and the one that AdaKV and ChunkKV cannot run with.
            model.set_attn_implementation("eager" if press == "h2o" else "sdpa")
            full, logits = uncompressed(model, tokens)
            ratios = (*EXACT_RATIOS, INEXACT_RATIO) if name in ("knorm", "streaming_llm") else EXACT_RATIOS
            for ratio in ratios:
                arrays[f"kept/{kind}/{name}/{ratio}"] = survivors(model, tokens, make(ratio), full)
        arrays[f"logits/{kind}"] = logits.numpy()
    arrays["about"] = np.array(json.dumps(about))
    np.savez_compressed(Path(__file__).parent / "kvpress_reference.npz", **arrays)


if __name__ == "__main__":
    main()
