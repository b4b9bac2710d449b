"""Which backend attends: what ``attn_implementation`` names, or what fits the device and the model.

``auto``, the default, is ``varlen`` on CUDA if it runs and agrees with the model's own attention, and ``sdpa``
otherwise. ``varlen`` is torch's variable-length flash attention, ``flash_attention_2`` the package flash-attn,
``ragged`` this package's own kernel for decoding on a CPU. ``auto`` never chooses the last: it must be compiled, and
whether a machine has a compiler should not decide how an answer rounds. If a layer needs what a kernel lacks, SDPA
attends instead, and a note in the results says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Backend
from fairkv_eval.attention.flash import Flash
from fairkv_eval.attention.kernels import HALF, Kernel, flash_attn_kernel, torch_kernel
from fairkv_eval.attention.ragged import DTYPES, Ragged
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.attention.seam import embedding
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.linear import ONEDNN, TORCH, reorder
from fairkv_eval.errors import UnsupportedModelError, UsageError, unknown

log = logging.getLogger(__name__)

_AUTO = "auto"
KERNELS: dict[str, Callable[[], Kernel]] = {"varlen": torch_kernel, "flash_attention_2": flash_attn_kernel}
_OLDEST = (8, 0)  # compute capability of the GPUs that both kernels are written for


def check_name(name: object) -> None:
    """Raise UsageError unless this is an ``attn_implementation`` that is known and installed."""
    allowed = {_AUTO, SDPA.name, Ragged.name, *KERNELS}
    if name not in allowed:
        raise unknown("attn_implementation", name, allowed)
    if name == Ragged.name:
        Ragged()
    elif name in KERNELS:
        KERNELS[str(name)]()


def attach_chosen(
    model: PreTrainedModel, name: str = _AUTO, linear: str = TORCH
) -> tuple[list[int | None], Backend, list[str]]:
    """Attach a model to the seam with this ``attn_implementation``, its linear layers reordered if ``linear`` says so.
    Return the windows of its layers as from `attach_checked`, the backend, and notes for the results.

    UsageError if what is named cannot run this model at all, UnsupportedModelError if no backend can.
    """
    if linear == ONEDNN:
        reorder(model)
    device = embedding(model).device
    if name == SDPA.name or (name == _AUTO and not is_cuda(device)):
        return attach_checked(model), SDPA, []
    if name == Ragged.name:
        windows, ragged = _attach_ragged(model, device)
        return windows, ragged, sorted(ragged.notes)
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
    return _attach_kernel(model, flash), flash


def _attach_ragged(model: PreTrainedModel, device: torch.device) -> tuple[list[int | None], Ragged]:
    kind = str(model.dtype).removeprefix("torch.")
    reason = None
    if device.type != "cpu":
        reason = f"needs a model on the CPU, and this one is on {device.type}"
    elif model.dtype not in DTYPES:
        reason = f"needs dtype=float32 or bfloat16, and the model is in {kind}"
    if reason:
        raise UsageError(f"attn_implementation={Ragged.name!r} {reason}. attn_implementation=sdpa runs everywhere")
    ragged = Ragged()
    return _attach_kernel(model, ragged), ragged


def _attach_kernel(model: PreTrainedModel, backend: Flash | Ragged) -> list[int | None]:
    """Attach a model with a backend that was named. Return the windows of its layers."""
    try:
        windows = attach_checked(model, backend)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"with attn_implementation={backend.name!r}: {error}") from error
    if not backend.calls:
        raise UsageError(
            f"attn_implementation={backend.name!r} can run no layer of this model: {'; '.join(sorted(backend.notes))}. "
            "attn_implementation=sdpa runs everywhere"
        )
    return windows


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
