"""What kvpress keeps of one context in tiny numbered models, written to kvpress_<group>.npz next to this file.

A group is a module of ``kvpress_cases``: its models, its cases, and the kvpress that it was written with. Runs where
that is installed, never in the tests (kvpress wants a transformers older than 5.3), for the groups that it names:

    pip install kvpress==0.5.5 numpy
    PYTHONPATH=tests/support python tests/golden/make_kvpress_reference.py reference

A file holds, as boolean ``[layers, kv_heads, n]`` under ``kept/<model>/<case>/<ratio>``, which positions survive; under
``logits/<model>`` the last token's logits after an uncompressed pass, ``[vocabulary]``; under ``measured/<model>`` what
the group's presses know about the model beforehand; and under ``about``, as JSON, versions, models and what each case
is called here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import kvpress
import numpy as np
import torch
from numpy_weights import fingerprint, numbered_model, numbered_tokens
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

N = 300


@torch.inference_mode()
def uncompressed(model: PreTrainedModel, tokens: list[int]) -> tuple[list[Tensor], Tensor]:
    """The keys of each layer, ``[kv_heads, n, dim]``, and the last token's logits."""
    cache = DynamicCache()
    logits = model(torch.tensor([tokens]), past_key_values=cache).logits[0, -1]
    return [layer.keys[0] for layer in cache.layers], logits


@torch.inference_mode()
def survivors(model: PreTrainedModel, tokens: list[int], press: Any, full: list[Tensor]) -> np.ndarray:
    """Boolean ``[layers, kv_heads, n]``: the positions whose keys are still there, and are not masked."""
    cache = DynamicCache()
    for layer in model.model.layers:
        layer.self_attn.masked_key_indices = None
    with press(model):
        model(torch.tensor([tokens]), past_key_values=cache)
    return torch.stack([_kept(model, cache, layer, before) for layer, before in enumerate(full)]).numpy()


def _kept(model: PreTrainedModel, cache: DynamicCache, layer: int, before: Tensor) -> Tensor:
    after = cache.layers[layer].keys[0][:, : before.shape[1]]  # without those of a replay, which stand behind
    same = (before[:, :, None] == after[:, None]).all(-1)  # [kv_heads, n, m]
    if not (same.sum(1) == 1).all():
        raise RuntimeError(f"layer {layer}: a kept key is not that of exactly one position")
    masked = model.model.layers[layer].self_attn.masked_key_indices
    if masked is not None:
        _, heads, entries = masked
        same[heads, :, entries] = False
    return same.any(-1)


def source() -> str:
    """SHA-256 of the sources of the kvpress that runs, which its version does not tell from its main branch."""
    digest = hashlib.sha256()
    folder = Path(kvpress.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def reference(group: ModuleType) -> dict[str, np.ndarray]:
    """The arrays of a group's file."""
    cases = {name: case._asdict() for name, case in group.CASES.items()}
    for case in cases.values():
        case.pop("make")
    about: dict[str, Any] = {
        "versions": {name: version(name) for name in ("kvpress", "transformers", "torch", "numpy")},
        "kvpress_sha256": source(),
        "n": N,
        "models": {},
        "cases": cases,
    }
    arrays = {}
    for kind, seed in group.MODELS.items():
        model, tokens = numbered_model(kind, seed), numbered_tokens(N, seed)
        about["models"][kind] = {"seed": seed, "fingerprint": fingerprint(model)}
        for name, case in group.CASES.items():
            model.set_attn_implementation(case.attention)
            full, logits = uncompressed(model, tokens)
            for ratio in case.ratios:
                arrays[f"kept/{kind}/{name}/{ratio}"] = survivors(model, tokens, case.make(ratio), full)
        arrays[f"logits/{kind}"] = logits.numpy()
        measured = getattr(group, "measured", None)
        arrays |= {f"measured/{kind}/{name}": array for name, array in measured(model).items()} if measured else {}
    return {**arrays, "about": np.array(json.dumps(about))}


def main() -> None:
    for name in sys.argv[1:]:
        group = importlib.import_module(f"kvpress_cases.{name}")
        np.savez_compressed(Path(__file__).parent / f"kvpress_{name}.npz", **reference(group))


if __name__ == "__main__":
    main()
