"""What the reference of kvpress's presses that know a model beforehand is measured on, in tokens and numbers."""

from __future__ import annotations

import numpy as np
from numpy_weights import numbered_tokens

REQUEST = numbered_tokens(9, seed=77)  # to repeat the context


def measured_tokens() -> list[int]:
    """The text that statistics are measured on."""
    return numbered_tokens(200, seed=78)


def random_filters(layers: int, kv_heads: int, dim: int) -> np.ndarray:
    """Unit vectors, float32 ``[layers, kv_heads, dim]``."""
    numbers = np.random.default_rng(79).standard_normal((layers, kv_heads, dim))
    return (numbers / np.linalg.norm(numbers, axis=-1, keepdims=True)).astype(np.float32)
