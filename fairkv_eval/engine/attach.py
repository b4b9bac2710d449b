"""Which backend attends: what ``attn_implementation`` names, or what fits the device and the model.

``auto``, the default, is ``varlen`` on CUDA if it runs and agrees with the model's own attention, and ``sdpa``
otherwise. ``varlen`` is torch's variable-length flash attention, ``flash_attention_2`` the package flash-attn. If a
layer needs what a flash kernel lacks, SDPA attends instead, and a note in the results says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Backend
from fairkv_eval.attention.flash import Flash
from fairkv_eval.attention.kernels import HALF, Kernel, flash_attn_kernel, torch_kernel
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.attention.seam import embedding
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.errors import UnsupportedModelError, UsageError, unknown

log = logging.getLogger(__name__)

_AUTO = "auto"
KERNELS: dict[str, Callable[[], Kernel]] = {"varlen": torch_kernel, "flash_attention_2": flash_attn_kernel}
_OLDEST = (8, 0)  # compute capability of the GPUs that both kernels are written for


def check_name(name: object) -> None:
    """Raise UsageError unless this is an ``attn_implementation`` that is known and installed."""
    allowed = {_AUTO, SDPA.name, *KERNELS}
    if name not in allowed:
        raise unknown("attn_implementation", name, allowed)
    if name in KERNELS:
        KERNELS[str(name)]()


def attach_chosen(model: PreTrainedModel, name: str = _AUTO) -> tuple[list[int | None], Backend, list[str]]:
    """Attach a model to the seam with this ``attn_implementation``. Return the windows of its layers as from
    `attach_checked`, the backend, and notes for the results.

    UsageError if the named one cannot run this model at all, UnsupportedModelError if no backend can.
    """
    device = embedding(model).device
    if name == SDPA.name or (name == _AUTO and not is_cuda(device)):
        return attach_checked(model), SDPA, []
    original = model.config._attn_implementation
    try:
        windows, flash = _attach_flash(model, "varlen" if name == _AUTO else name, device)
    except UsageError as error:
        if name != _AUTO:
            raise
        note = f"attention through sdpa: {error}"
    else:
        return windows, flash, sorted(flash.notes)
    model.set_attn_implementation(original)  # the check compares with it
    log.warning(note)
    return attach_checked(model), SDPA, [note]


def _attach_flash(model: PreTrainedModel, name: str, device: torch.device) -> tuple[list[int | None], Flash]:
    kernel = KERNELS[name]()
    reason = obstacle(device, model.dtype)
    if reason:
        raise UsageError(f"attn_implementation={name!r} {reason}. attn_implementation=sdpa runs everywhere")
    flash = Flash(kernel)
    try:
        windows = attach_checked(model, flash)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"with attn_implementation={name!r}: {error}") from error
    if not flash.calls:
        raise UsageError(
            f"attn_implementation={name!r} can run no layer of this model: {'; '.join(sorted(flash.notes))}. "
            "attn_implementation=sdpa runs everywhere"
        )
    return windows, flash


def is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why no flash kernel runs on this device in this dtype; None if one does."""
    if not is_cuda(device):
        return f"needs a CUDA device, and the model is on {device.type}"
    if dtype not in HALF:
        kind = str(dtype).removeprefix("torch.")
        return f"needs half precision (dtype=float16 or bfloat16), and the model is in {kind}"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST:
        return f"needs a GPU of compute capability 8.0 or newer, and this one has {'.'.join(map(str, capability))}"
    return None
