"""Tiny models whose weights are numpy's: the same numbers under any release of torch and transformers.

Two environments that cannot be installed together (see `make_kvpress_reference`) so run the same model.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 300
LAYERS = 4
KV_HEADS = 2

# Everything the numbers depend on is spelled out, so that no release's defaults decide them.
_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": KV_HEADS,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@torch.no_grad()
def numbered_model(kind: str, seed: int) -> PreTrainedModel:
    """A float32 model of this kind: matrices normal with deviation 0.2, which makes attention far from uniform, and
    norm weights uniform in [0.5, 1.5), parameter by parameter in the order of their names."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **_SIZES)).float().eval()
    rng = np.random.default_rng(seed)
    for _, parameter in sorted(model.named_parameters()):
        shape = tuple(parameter.shape)
        numbers = 0.2 * rng.standard_normal(shape) if len(shape) > 1 else 0.5 + rng.random(shape)
        parameter.copy_(torch.from_numpy(numbers.astype(np.float32)))
    return model


def numbered_tokens(n: int, seed: int) -> list[int]:
    """n tokens, none of them twice: a repeated one would give two keys of one norm in the first layer."""
    return np.random.default_rng(seed).permutation(VOCABULARY)[:n].tolist()


def fingerprint(model: PreTrainedModel) -> str:
    """SHA-256 of the names and the weights."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    return digest.hexdigest()
