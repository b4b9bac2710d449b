"""A kernel of this package for decoding on a CPU, as a backend: one query per row over rows of different lengths.

SDPA attends over rows as long as the longest, under a mask, with a kernel made for many queries. This one reads what a
row holds, once for all queries of a group, at about the speed of memory (`ragged.cpp`).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Attending, Options, VisibleRows
from fairkv_eval.attention.compiled import library
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.errors import UsageError

DTYPES = (torch.float32, torch.bfloat16)
MAX_DIM = 256  # channels of a head that the kernel has room for

_SOURCE = Path(__file__).with_suffix(".cpp")
_Sizes = ctypes.c_int64 * 12


class Ragged:
    """The compiled kernel for rows; SDPA for packed sequences, and for what the kernel cannot do.

    ``calls`` counts the kernel's calls; ``notes`` says what went to SDPA and why. UsageError if the kernel cannot be
    compiled here.
    """

    name = "ragged"

    def __init__(self) -> None:
        try:
            self._attend_rows = library(_SOURCE).fairkv_attend_rows
        except UsageError as error:
            raise UsageError(
                f"attn_implementation={self.name!r} compiles a kernel on first use, and {error}. "
                "attn_implementation=sdpa runs everywhere"
            ) from error
        pointers, floats = [ctypes.c_void_p] * 6, [ctypes.c_float] * 2
        self._attend_rows.argtypes = [ctypes.c_int, *pointers, *floats, ctypes.c_int]
        self._attend_rows.restype = None
        self.calls = 0
        self.notes: set[str] = set()

    def packed(self, sequences: Iterable[Attending], options: Options) -> list[Tensor]:
        """See `Backend.packed`."""
        return SDPA.packed(sequences, options)

    def rows(self, q: Tensor, visible: VisibleRows, options: Options) -> Tensor:
        """See `Backend.rows`."""
        _, keys, values, step = visible
        reason = obstacle(q, keys, values)
        if reason:
            self.notes.add(f"attention through sdpa instead of {self.name}: {reason}")
            return SDPA.rows(q, visible, options)
        self.calls += 1
        q = q.contiguous()
        out = q.new_empty(*q.shape[:3], values.shape[3])
        sizes = _Sizes(*q.shape, values.shape[3], step.window or 0, *keys.stride()[:3], *values.stride()[:3])
        self._attend_rows(
            q.dtype == torch.bfloat16,
            *(tensor.data_ptr() for tensor in (q, keys, values, out, step.lengths)),
            sizes,
            options.scaling,
            options.softcap or 0.0,
            min(torch.get_num_threads(), q.shape[0] * q.shape[1]),
        )
        return out


def obstacle(q: Tensor, keys: Tensor, values: Tensor) -> str | None:
    """Why the kernel cannot attend over these; None if it can."""
    kinds, devices = {q.dtype, keys.dtype, values.dtype}, {q.device.type, keys.device.type, values.device.type}
    if devices != {"cpu"}:
        return f"it runs on a CPU, and these are on {', '.join(sorted(devices))}"
    if len(kinds) > 1 or not kinds <= {*DTYPES}:
        named = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        return f"it takes float32 or bfloat16, and queries, keys and values are in {named}"
    if max(q.shape[-1], values.shape[-1]) > MAX_DIM:
        return f"its heads have at most {MAX_DIM} channels, and here keys have {q.shape[-1]}, values {values.shape[-1]}"
    if keys.stride(-1) != 1 or values.stride(-1) != 1:
        return "the channels of a key or value do not lie side by side"
    return None
