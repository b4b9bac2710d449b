"""The slow reference of storage: quantization and its way back, one block at a time."""

from __future__ import annotations

import numpy as np


def blocks(entries: np.ndarray, bits: int, tokens: int, channels: int) -> np.ndarray:
    """Entries float32 ``[heads, n, dim]``, quantized in blocks of tokens × channels, as they come back."""
    out = np.empty_like(entries)
    heads, n, dim = entries.shape
    for head in range(heads):
        for token in range(0, n, tokens):
            for channel in range(0, dim, channels):
                at = head, slice(token, token + tokens), slice(channel, channel + channels)
                out[at] = block(entries[at], bits)
    return out


def block(values: np.ndarray, bits: int) -> np.ndarray:
    """One block: s = (max − min) / (2^bits − 1), z = min, both in 16 bits; s · round((x − z) / s) + z."""
    top = 2**bits - 1
    zero = np.float32(np.float16(values.min()))
    step = np.float32(np.float16(np.float32(values.max() - values.min()) / np.float32(top)))
    codes = np.clip(np.round((values - zero) / step), 0, top) if step else np.zeros_like(values)
    return (step * codes + zero).astype(np.float32)
