"""The values of `hf`'s own arguments that it takes with another meaning than they say, or fails on late."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fairkv_eval.errors import UsageError


def check_values(hf: Mapping[str, Any]) -> None:
    """UsageError for a batch size, length or device that cannot be what was meant."""
    for name in ("batch_size", "max_batch_size", "max_length"):
        if hf.get(name) is not None:
            _check_count(name, hf[name])
    if isinstance(hf.get("device"), str):
        _check_device(hf["device"])


def _check_count(name: str, value: Any) -> None:
    text, allowed = str(value), "a whole number from 1"
    if name == "batch_size":
        allowed += ", or auto"
        if text.partition(":")[0] == "auto":
            return
    if isinstance(value, bool) or not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name}={value!r} is not allowed; it takes {allowed}")


def _check_device(name: str) -> None:
    """`hf` runs on the first GPU, or on the CPU, if it does not know a device."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device={name!r} is not allowed; it takes cpu, cuda, cuda:1, mps … ({error})") from error
    # cuda:0 is the harness's own default, on machines without a GPU as well.
    first = device.index in (None, 0)
    if device.type == "cuda" and not (first or device.index < torch.cuda.device_count()):
        raise UsageError(f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    if device.type == "meta":
        raise UsageError("device='meta' computes nothing; it takes cpu, cuda, cuda:1, mps …")
