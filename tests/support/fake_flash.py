"""Flash attention kernels on the CPU: the signatures and conditions of the real ones, plain loops inside."""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.attention.kernels import FlashAttnKernel, TorchKernel

FLOATS = (torch.float32,)


def torch_kernel() -> TorchKernel:
    return TorchKernel(varlen_attn, FLOATS)


def flash_attn_kernel() -> FlashAttnKernel:
    return FlashAttnKernel(flash_attn_varlen_func, flash_attn_with_kvcache, FLOATS)


KERNELS = {"varlen": torch_kernel, "flash_attention_2": flash_attn_kernel}


def varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: None = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    assert cu_seq_k is not None and (enable_gqa or query.shape[1] == key.shape[1])
    left, right = window_size
    # The real one takes exactly this for causal; the kernel behind it treats the other windows as they are.
    assert isinstance(window_size, tuple)
    return _varlen(query, key, value, cu_seq_q, cu_seq_k, seqused_k, max_q, max_k, scale, left, right, 0.0)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: None = None,
) -> Tensor:
    left, right = window_size
    right = 0 if causal else right
    return _varlen(
        q, k, v, cu_seqlens_q, cu_seqlens_k, None, max_seqlen_q, max_seqlen_k, softmax_scale, left, right, softcap
    )


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: None = None,
    v: None = None,
    rotary_cos: None = None,
    rotary_sin: None = None,
    cache_seqlens: Tensor | None = None,
    cache_batch_idx: None = None,
    cache_leftpad: None = None,
    block_table: None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
) -> Tensor:
    assert cache_seqlens is not None and cache_seqlens.dtype == torch.int32 and cache_seqlens.is_contiguous()
    assert k_cache.stride(-1) == v_cache.stride(-1) == q.stride(-1) == 1
    assert q.shape[0] == k_cache.shape[0] == len(cache_seqlens) and q.shape[2] % k_cache.shape[2] == 0
    left, right = window_size
    right = 0 if causal else right
    rows = zip(q, k_cache, v_cache, cache_seqlens.tolist(), strict=True)
    return torch.stack([_one(a, b[:n], c[:n], softmax_scale, left, right, softcap) for a, b, c, n in rows])


def _varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    query_ends: Tensor,
    key_ends: Tensor,
    used: Tensor | None,
    most_queries: int,
    most_keys: int,
    scale: float | None,
    left: int,
    right: int,
    softcap: float,
) -> Tensor:
    assert q.dim() == k.dim() == v.dim() == 3 and q.shape[-1] == k.shape[-1] == v.shape[-1]
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    assert q.shape[-1] % 8 == 0 and q.shape[-1] <= 256 and q.shape[1] % k.shape[1] == 0
    for ends in (query_ends, key_ends):
        assert ends.dtype == torch.int32 and ends.is_contiguous() and int(ends[0]) == 0
    assert len(query_ends) == len(key_ends) and int(query_ends[-1]) == len(q) and int(key_ends[-1]) == len(k) == len(v)
    held = (key_ends[1:] - key_ends[:-1]).tolist()
    if used is not None:
        assert used.dtype == torch.int32 and used.is_contiguous() and used.shape == (len(key_ends) - 1,)
        assert all(n <= room for n, room in zip(used.tolist(), held, strict=True))
        held = used.tolist()
    starts, stops, keys = query_ends.tolist()[:-1], query_ends.tolist()[1:], key_ends.tolist()[:-1]
    queries = [stop - start for start, stop in zip(starts, stops, strict=True)]
    assert max(queries) == most_queries and max(held) <= most_keys
    assert used is not None or max(held) == most_keys
    if left >= most_keys:
        left = -1
    return torch.cat(
        [
            _one(q[start:stop], k[at : at + n], v[at : at + n], scale, left, right, softcap)
            for start, stop, at, n in zip(starts, stops, keys, held, strict=True)
        ]
    )


def _one(q: Tensor, k: Tensor, v: Tensor, scale: float | None, left: int, right: int, softcap: float) -> Tensor:
    """q ``[m, heads, dim]``, k and v ``[n, kv_heads, dim]``: query i of m stands at key n - m + i."""
    m, heads, _ = q.shape
    n, kv_heads, _ = k.shape
    assert scale is not None
    out = torch.empty_like(q)
    q, k, v = q.float(), k.float(), v.float()
    for i in range(m):
        at = n - m + i
        first = 0 if left < 0 else max(0, at - left)
        last = n if right < 0 else min(n, at + right + 1)
        for head in range(heads):
            kv_head = head // (heads // kv_heads)
            logits = k[first:last, kv_head] @ q[i, head] * scale
            if softcap:
                logits = softcap * torch.tanh(logits / softcap)
            out[i, head] = logits.softmax(0) @ v[first:last, kv_head]
    return out
