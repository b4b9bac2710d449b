"""Which key channels kvpress's ThinKPress leaves, written to kvpress_channels.npz next to this file.

Runs where kvpress's main branch of August 2026 is installed (it wants a transformers older than 5.3), never in the
tests:

    python tests/golden/make_kvpress_channels.py

Of each case: ``keys`` ``[kv_heads, n, dim]``, the window's ``queries`` ``[heads, m, dim]``, the ``share`` of channels
to prune, and ``pruned``, the keys with zeros in these.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import kvpress
import numpy as np
import torch

# KV heads, query heads, tokens, window, dim, share.
CASES = {"gqa": (2, 6, 50, 8, 16, 0.5), "mha": (3, 3, 20, 20, 10, 0.29), "wide": (1, 4, 64, 32, 64, 0.4)}


def main() -> None:
    arrays = {}
    for seed, (name, (kv_heads, heads, n, m, dim, share)) in enumerate(CASES.items()):
        rng = np.random.default_rng(seed)
        keys = (rng.standard_normal((kv_heads, n, dim)) * rng.random((kv_heads, 1, dim))).astype(np.float32)
        queries = rng.standard_normal((heads, m, dim)).astype(np.float32)
        press = kvpress.ThinKPress(share, m)
        press.compute_window_queries = lambda *_, queries=queries: torch.from_numpy(queries)[None]
        module = SimpleNamespace(config=SimpleNamespace(num_attention_heads=heads), head_dim=dim)
        states = {"hidden_states": None, "position_embeddings": None}
        pruned, _ = press.compress(module, None, torch.from_numpy(keys.copy())[None], None, None, states)
        arrays |= {f"{name}/keys": keys, f"{name}/queries": queries, f"{name}/share": np.float64(share)}
        arrays[f"{name}/pruned"] = pruned[0].numpy()
    np.savez_compressed(Path(__file__).with_name("kvpress_channels.npz"), **arrays)


if __name__ == "__main__":
    main()
