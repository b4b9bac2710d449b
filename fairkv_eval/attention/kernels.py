"""Variable-length flash attention kernels, torch's own and flash-attn's, under one signature.

Both align a causal mask, and a window, to the last query and the last key of a sequence: query i of m sees the keys up
to n - m + i of n (flash-attn from 2.1 on, whose kernel torch carries). A window of w tokens, the query's own among
them, is ``(w - 1, 0)`` to the left and right of it. Read from torch 2.11 to 2.13 and flash-attn 2.8.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.errors import UsageError

HALF = (torch.float16, torch.bfloat16)

_MAX_DIM = 256  # of a head, in both kernels; it must also be a multiple of 8
_EVERYTHING = (-1, -1)


class Packing(NamedTuple):
    """Sequences packed by token: where they end, from 0, int32 ``[sequences + 1]``, and the longest one's tokens."""

    ends: Tensor
    longest: int


class Kernel(Protocol):
    """A flash kernel. Tensors are on one CUDA device; lengths and ends are int32."""

    name: str

    def obstacle(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> str | None:
        """Why the kernel cannot attend like this; None if it can."""

    def packed(self, q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing, options: Options) -> Tensor:
        """Causal attention of packed sequences: q ``[total_q, heads, dim]``, k and v ``[total_k, kv_heads, dim]``."""

    def rows(self, q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, options: Options) -> Tensor:
        """One query over the first ``lengths[r]`` entries of row r: q ``[rows, kv_heads, group, dim]``, keys and values
        ``[rows, kv_heads, capacity, dim]``, contiguous. Nothing but the contents of ``lengths`` changes from step to
        step, so that a CUDA graph could replay it until rows or capacity change."""


class TorchKernel:
    """``torch.nn.attention.varlen.varlen_attn``, or `older_varlen_attn` if this torch's takes too little."""

    name = "varlen"

    def __init__(self, varlen_attn: Callable[..., Any], dtypes: tuple[torch.dtype, ...] = HALF) -> None:
        self._attend = varlen_attn
        self._dtypes = dtypes

    def obstacle(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> str | None:
        """See `Kernel.obstacle`."""
        if options.softcap is not None:
            return "it does not bound logits (softcap)"
        return _obstacle(q, k, v, self._dtypes)

    def packed(self, q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing, options: Options) -> Tensor:
        """See `Kernel.packed`."""
        output: Tensor = self._attend(
            q,
            k,
            v,
            queries.ends,
            keys.ends,
            queries.longest,
            keys.longest,
            scale=options.scaling,
            window_size=_window(options, queries.longest, keys.longest),
            enable_gqa=True,
        )
        return output

    def rows(self, q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, options: Options) -> Tensor:
        """See `Kernel.rows`. Each KV head of each row is a sequence, so that the buffer is read where it lies."""
        rows, heads, capacity, dim = keys.shape
        sequences = rows * heads
        output: Tensor = self._attend(
            q.reshape(sequences, -1, dim),
            keys.view(sequences * capacity, 1, dim),
            values.view(sequences * capacity, 1, dim),
            _spaced(sequences, 1, q.device),
            _spaced(sequences, capacity, q.device),
            1,
            capacity,
            scale=options.scaling,
            window_size=_window(options, 1, capacity),
            enable_gqa=True,
            seqused_k=lengths[:, None].expand(rows, heads).reshape(-1).contiguous(),
        )
        return output.reshape(q.shape)


class FlashAttnKernel:
    """The package flash-attn: ``flash_attn_varlen_func`` and, for rows, ``flash_attn_with_kvcache``."""

    name = "flash_attention_2"

    def __init__(
        self, varlen: Callable[..., Any], with_kvcache: Callable[..., Any], dtypes: tuple[torch.dtype, ...] = HALF
    ) -> None:
        self._varlen = varlen
        self._with_kvcache = with_kvcache
        self._dtypes = dtypes

    def obstacle(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> str | None:
        """See `Kernel.obstacle`."""
        return _obstacle(q, k, v, self._dtypes)

    def packed(self, q: Tensor, k: Tensor, v: Tensor, queries: Packing, keys: Packing, options: Options) -> Tensor:
        """See `Kernel.packed`."""
        window = _window(options, queries.longest, keys.longest)
        output: Tensor = self._varlen(
            q,
            k,
            v,
            cu_seqlens_q=queries.ends,
            cu_seqlens_k=keys.ends,
            max_seqlen_q=queries.longest,
            max_seqlen_k=keys.longest,
            softmax_scale=options.scaling,
            causal=window != _EVERYTHING,
            window_size=window,
            softcap=options.softcap or 0.0,
        )
        return output

    def rows(self, q: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, options: Options) -> Tensor:
        """See `Kernel.rows`."""
        output: Tensor = self._with_kvcache(
            q.reshape(len(q), 1, -1, q.shape[-1]),
            keys.transpose(1, 2),
            values.transpose(1, 2),
            cache_seqlens=lengths,
            softmax_scale=options.scaling,
            window_size=_window(options, 1, keys.shape[2]),
            softcap=options.softcap or 0.0,
        )
        return output.reshape(q.shape)


def torch_kernel() -> TorchKernel:
    """torch's own kernel; UsageError if this torch has none that takes scales, windows and lengths in use."""
    if {"scale", "window_size", "enable_gqa", "seqused_k"} <= _varlen_parameters():
        from torch.nn.attention.varlen import varlen_attn

        return TorchKernel(varlen_attn)
    if {"scale", "window_size_left", "window_size_right", "seqused_k"} <= _operator_arguments():
        return TorchKernel(older_varlen_attn)
    raise UsageError(
        f"attn_implementation='varlen' needs a newer torch (2.6 or later), and this is {torch.__version__}. "
        "Allowed with it: auto, sdpa, flash_attention_2"
    )


def older_varlen_attn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = _EVERYTHING,
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
) -> Tensor:
    """`varlen_attn` as torch has it from 2.12 on, for those before it: the same operator is beneath both, and its
    kernel takes fewer KV heads than heads unasked."""
    left, right = window_size
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        0.0,
        window_size == (-1, 0),
        False,
        scale=scale,
        window_size_left=left,
        window_size_right=right,
        seqused_k=seqused_k,
    )[0]
    return output


def _varlen_parameters() -> set[str]:
    """The parameters of this torch's ``varlen_attn``; none before 2.10."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return set()
    return {*inspect.signature(varlen_attn).parameters}


def _operator_arguments() -> set[str]:
    """The arguments of the operator beneath ``varlen_attn``."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    return {argument.name for argument in operator.default._schema.arguments} if operator else set()


def flash_attn_kernel() -> FlashAttnKernel:
    """The kernels of the package flash-attn; UsageError if it is not installed or too old."""
    needed = "attn_implementation='flash_attention_2' needs the package flash-attn from 2.6 on (fairkv-eval[flash])"
    instead = "Allowed without it: auto, sdpa, varlen"
    try:
        from flash_attn import flash_attn_varlen_func, flash_attn_with_kvcache
    except ImportError as error:
        raise UsageError(f"{needed}, and it cannot be imported: {error}. {instead}") from error
    if "softcap" not in inspect.signature(flash_attn_varlen_func).parameters:
        raise UsageError(f"{needed}, and the one installed is older. {instead}")
    return FlashAttnKernel(flash_attn_varlen_func, flash_attn_with_kvcache)


def _obstacle(q: Tensor, k: Tensor, v: Tensor, dtypes: tuple[torch.dtype, ...]) -> str | None:
    kinds, dim = {q.dtype, k.dtype, v.dtype}, q.shape[-1]
    if len(kinds) > 1 or not kinds <= set(dtypes):
        named = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        return f"it needs half precision, and queries, keys and values are in {named}"
    if dim % 8 or dim > _MAX_DIM or v.shape[-1] != dim:
        return f"its heads have dims of 8, 16 … {_MAX_DIM}, and here keys have {dim} and values {v.shape[-1]}"
    return None


def _window(options: Options, longest_query: int, longest_key: int) -> tuple[int, int]:
    """Keys to the left and right of a query that it sees, -1 for all.

    A lone query sees everything anyway, and only without a window do the kernels split long rows over processors and
    let the heads of a group share what is read.
    """
    if options.window is not None and options.window < longest_key:
        return options.window - 1, 0
    return _EVERYTHING if longest_query == 1 else (-1, 0)


def _spaced(count: int, step: int, device: torch.device) -> Tensor:
    """0, step, 2·step … count·step: int32 ``[count + 1]``."""
    # What a CUDA graph records lies in the graph's memory, which is no place for a tensor that outlives it.
    recording = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    return (_multiples.__wrapped__ if recording else _multiples)(count, step, device)


@lru_cache(maxsize=64)  # the same in every layer of many steps
def _multiples(count: int, step: int, device: torch.device) -> Tensor:
    return torch.arange(count + 1, dtype=torch.int32, device=device) * step
