"""The slow reference of storage: quantization and its way back one block at a time, and dense attention over that."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from kept_by_loops import Kept
from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.storage.hadamard import rotation
from fairkv_eval.storage.storage import Storage


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


def stored(entries: Tensor, storage: Storage, keys: bool) -> Tensor:
    """One head's entries ``[n, dim]`` of a row that holds n, as a step sees them."""
    bits = storage.key_bits if keys else storage.value_bits
    n, dim = entries.shape
    window = storage.residual if storage.residual is not None else 128 if storage.scheme == "kivi" else 0
    group = storage.group or (32 if storage.scheme == "kivi" else min(64, dim))
    unit = group if storage.scheme == "kivi" else 1
    packed = 0
    while n - packed >= window + unit:
        packed += unit
    if bits == 16 or not packed:
        return entries
    old, turn = entries[:packed], torch.eye(dim, dtype=entries.dtype)
    if storage.scheme == "rotated":
        turn = rotation(dim, entries.dtype, torch.device("cpu"))
    by_channel = storage.scheme == "kivi" and keys
    shape = (group, 1) if by_channel else (1, group)
    back = torch.from_numpy(blocks((old @ turn).float().numpy()[None], bits, *shape)[0]).to(entries.dtype)
    return torch.cat([back @ turn.T, entries[packed:]])


class PackedDense:
    """Plain softmax attention over one sequence, as a phase: its first n tokens are a context, which sees itself as it
    is. The tokens from each of ``starts`` on, up to the next, are one pass: they see ``kept`` of the context and what
    came since, all as stored, and each other as they are. ``spans`` of the context vote on key channels, each alike."""

    def __init__(
        self, storage: Storage, n: int, kept: Kept, starts: Sequence[int], spans: Sequence[tuple[int, int]] = ()
    ) -> None:
        self.storage, self.n, self.kept, self.starts, self.spans = storage, n, kept, starts, spans
        self.layer = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        q, k, v, self.window = q[0], k[0], v[0], options.window
        out, group = torch.empty(q.shape[1], q.shape[0], v.shape[2], dtype=q.dtype), len(q) // len(k)
        for head in range(len(k)):
            chosen = self.channels(k, q, head)
            for i in range(q.shape[1]):
                start = max([s for s in self.starts if s <= i], default=0)
                kept = self.kept[self.layer][head][-(options.window or self.n) :]  # a window keeps no more
                older = [*kept, *range(self.n, start)] if i >= self.n else []
                newer = [*range(start, i + 1)] if i >= self.n else [*range(i + 1)]
                keys = torch.cat([self._pruned(k[head, older], chosen), k[head, newer]])
                if i >= self.n and len(chosen) < k.shape[2] and start != min(self.starts):
                    dropped = [c for c in range(k.shape[2]) if c not in chosen]
                    keys[-1, dropped] = 0  # a token that is said is stored, though not packed, before it attends
                values = torch.cat([stored(v[head, older], self.storage, False), v[head, newer]])
                hidden = [options.window is not None and j <= i - options.window for j in (*older, *newer)]
                logits = q[head * group : (head + 1) * group, i] @ keys.T * options.scaling
                if options.softcap:
                    logits = torch.tanh(logits / options.softcap) * options.softcap
                weights = logits.masked_fill(torch.tensor(hidden), float("-inf")).softmax(-1)
                out[i, head * group : (head + 1) * group] = weights @ values
        self.layer += 1
        return out[None]

    def _pruned(self, keys: Tensor, chosen: list[int]) -> Tensor:
        """A head's keys ``[n, dim]`` as stored, with zeros in the channels that are not held."""
        held = torch.zeros_like(keys)
        held[:, chosen] = stored(keys[:, chosen], self.storage, True)
        return held

    def channels(self, k: Tensor, q: Tensor, head: int) -> list[int]:
        """The channels that a head's keys are held in, by the last queries of the context, or without one of the
        first pass."""
        dim, group = k.shape[2], len(q) // len(k)
        if not self.storage.pruned or self.window is not None:
            return [*range(dim)]
        n, q, k = q.shape[1], q.tolist(), k.tolist()
        stop = self.n or min([s for s in self.starts if s > 0], default=n)
        keys = self.kept[self.layer][head] if self.n else range(stop)
        observers = [range(max(a, b - self.storage.observers), b) for a, b in self.spans or [(0, stop)]]
        worth = [
            sum(
                q[h][i][c] ** 2 / len(last)
                for h in range(head * group, (head + 1) * group)
                for last in observers
                for i in last
            )
            * sum(k[head][j][c] ** 2 for j in keys)
            for c in range(dim)
        ]
        kept = dim - int(dim * self.storage.pruned + 1e-6)
        return sorted(sorted(range(dim), key=lambda c: -worth[c])[:kept])
