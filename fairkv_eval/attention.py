"""The only seam to transformers: one registered attention function, and exact attention over ragged keys.

A model attached to the seam is called with ``kv=<phase>``; unknown keyword arguments travel through its forward to the
attention function, which hands queries, keys and values (after RoPE) to the phase and does nothing else. No hooks, no
patched modules, no globals, no ``past_key_values``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from fairkv_eval.errors import UnsupportedModelError

NAME = "fairkv"

# Keyword arguments that reach an attention function and change nothing it computes here: positions are applied
# before it, and the rest asks for outputs nobody reads.
_INERT = {
    "cache_position",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "training",
    "use_cache",
}

# Elements of one boolean mask (16 MiB): larger ones are worked off in blocks of queries.
_MASK_ELEMENTS = 1 << 24


class Options(NamedTuple):
    """What a layer asks of its attention beyond scaling: a sliding window in tokens, a bound on the logits."""

    window: int | None = None
    softcap: float | None = None


def attach(model: PreTrainedModel) -> None:
    """Make a model's attention layers call the phase they are given. UnsupportedModelError where they cannot."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, NotImplementedError) as error:
        name = model.config.model_type
        raise UnsupportedModelError(f"{name!r} models have no attention interface: {error}") from error


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,  # off in evaluation
    scaling: float | None = None,
    kv: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query ``[1, heads, n, dim]``, key and value ``[1, kv_heads, n, dim]`` to ``[1, n, heads, dim]``."""
    if kv is None:
        raise RuntimeError("a model attached to fairkv runs through its engine only: no kv=<phase> was given")
    if attention_mask is not None:
        raise UnsupportedModelError(f"{type(module).__name__} brings an attention mask of its own")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Some models view the output, which the phases give transposed.
    return kv.attend(query, key, value, scaling, _options(module, kwargs)).contiguous(), None


def _options(module: nn.Module, kwargs: dict[str, Any]) -> Options:
    window, softcap = kwargs.pop("sliding_window", None), kwargs.pop("softcap", None)
    strange = sorted(name for name, value in kwargs.items() if value is not None and name not in _INERT)
    if strange:
        raise UnsupportedModelError(f"{type(module).__name__} attends with {', '.join(strange)}, unknown here")
    return Options(window, softcap)


NO_OPTIONS = Options()


def causal(q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options = NO_OPTIONS) -> Tensor:
    """Attention of the last m of n tokens, each over itself and what came before.

    q: ``[heads, m, dim]``; k, v: ``[kv_heads, n, dim]``, n >= m, the last m keys being the queries' own.
    Returns ``[heads, m, dim]``. Memory O(m + n) a head.
    """
    m, n = q.shape[1], k.shape[1]
    window = options.window if options.window is not None and options.window < n else None
    if window is None and options.softcap is None and m in (1, n):
        return _sdpa(q, k, v, scaling, is_causal=m > 1)
    rows = max(1, _MASK_ELEMENTS // n)
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
        blocks.append(masked(q[:, start:stop], k[:, first:last], v[:, first:last], scaling, mask, options.softcap))
    return torch.cat(blocks, 1)


def masked(q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None, softcap: float | None) -> Tensor:
    """Attention under a boolean mask (True: visible) that broadcasts to ``[..., heads, m, n]``.

    q: ``[..., heads, m, dim]``; k, v: ``[..., kv_heads, n, dim]``. Returns the shape of q.
    """
    if softcap is None:
        return _sdpa(q, k, v, scaling, mask)
    # No fused kernel bounds its logits everywhere, so this is spelled out.
    groups = q.shape[-3] // k.shape[-3]
    k, v = k.repeat_interleave(groups, -3), v.repeat_interleave(groups, -3)
    logits = torch.tanh(q @ k.transpose(-1, -2) * (scaling / softcap)).float() * softcap
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf"))
    return logits.softmax(-1).to(v.dtype) @ v


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, scaling: float, mask: Tensor | None = None, is_causal: bool = False
) -> Tensor:
    single = q.dim() == 3
    if single:
        q, k, v = q[None], k[None], v[None]
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scaling, enable_gqa=grouped)
    return out[0] if single else out
