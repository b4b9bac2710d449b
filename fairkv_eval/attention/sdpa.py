"""torch's own attention, exact over ragged keys: on every device, in every dtype."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.attention.backend import Attending, Options, VisibleRows

# Elements of one boolean mask (16 MiB): larger masks are built in blocks of queries.
MASK_ELEMENTS = 1 << 24


def causal(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    """Attention of the last m of n tokens, each over itself and the tokens before it.

    q: ``[heads, m, dim]``; k, v: ``[kv_heads, n, dim]``, n >= m, the last m keys being the queries' own.
    Returns ``[heads, m, dim]``. Memory O(m + n) per head.
    """
    m, n = q.shape[1], k.shape[1]
    window = options.window if options.window is not None and options.window < n else None
    if window is None and options.softcap is None and m in (1, n):
        return _sdpa(q, k, v, options.scaling, is_causal=m > 1)
    rows = max(1, MASK_ELEMENTS // n)
    blocks = []
    for start in range(0, m, rows):
        stop = min(start + rows, m)
        first = 0 if window is None else max(0, n - m + start - window + 1)
        last = n - m + stop
        keys = torch.arange(first, last, device=q.device)
        query = torch.arange(n - m + start, last, device=q.device)[:, None]
        mask = keys <= query
        if window is not None:
            mask &= keys > query - window
        blocks.append(masked(q[:, start:stop], k[:, first:last], v[:, first:last], mask, options))
    return torch.cat(blocks, 1)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, options: Options) -> Tensor:
    """Attention under a boolean mask (True: visible) that broadcasts to ``[..., heads, m, n]``.

    q: ``[..., heads, m, dim]``; k, v: ``[..., kv_heads, n, dim]``. Returns the shape of q. The mask alone says what is
    visible: the options' window is not applied.
    """
    scaling, softcap = options.scaling, options.softcap
    if softcap is None:
        return _sdpa(q, k, v, scaling, mask)
    # No fused kernel bounds its logits on every device, so this is spelled out.
    groups = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(groups, -3), v.repeat_interleave(groups, -3)
    logits = torch.tanh(q @ k.transpose(-1, -2) * (scaling / softcap)).float() * softcap
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return logits.softmax(-1).to(v.dtype) @ v


def wants_every_head(device: torch.device, dtype: torch.dtype, masked: bool) -> bool:
    """Whether torch's fused kernels take as many KV heads as heads only.

    On CUDA just the flash kernel takes fewer, in half precision and without a mask; in any other case torch would spell
    the attention out, with all weights in memory.
    """
    return device.type == "cuda" and (masked or dtype not in (torch.float16, torch.bfloat16))


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    single = q.dim() == 3
    if single:
        q, k, v = q[None], k[None], v[None]
    grouped = q.shape[1] != k.shape[1]
    if grouped and wants_every_head(q.device, q.dtype, mask is not None):
        groups, grouped = q.shape[1] // k.shape[1], False
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scaling, enable_gqa=grouped)
    return out[0] if single else out


class Sdpa:
    """torch's own attention, on every device, in every dtype."""

    name = "sdpa"

    def packed(self, sequences: Iterable[Attending], options: Options) -> list[Tensor]:
        """See `Backend.packed`."""
        return [causal(q, k, v, options) for q, k, v in sequences]

    def rows(self, q: Tensor, visible: VisibleRows, options: Options) -> Tensor:
        """See `Backend.rows`."""
        keys, values = (buffer[:, :, : visible.step.longest] for buffer in (visible.keys, visible.values))
        return masked(q, keys, values, visible.step.mask, options)


SDPA = Sdpa()
