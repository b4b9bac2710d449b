"""How many rows a memory budget holds, worked out from the bytes of their KV pairs and never tried out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.engine.cache import BLOCK
from fairkv_eval.engine.jobs import Generate, Job
from fairkv_eval.errors import UsageError

GIB = 1 << 30


def memory_budget(given: float, device: torch.device) -> int:
    """Bytes for the rows' KV pairs: ``given`` GiB, or below 1 that part of what is free on the device now."""
    if not isinstance(given, (int, float)) or isinstance(given, bool) or not given > 0:
        raise UsageError(
            f"kv_memory={given!r} is not allowed; it takes GiB from 1, or below 1 a part of the device's free memory"
        )
    return int(given * (_free(device) if given < 1 else GIB))


def rows_that_fit(jobs: Sequence[Job], entry_bytes: int, budget: int, most: int) -> int:
    """Rows of these jobs that a budget of bytes holds, at least 1 and at most ``most``.

    entry_bytes: of one token's keys and values in all layers. Every row is counted as long as the longest becomes,
    since the rows of a layer share a buffer, and with the room such a buffer grows by.
    """
    longest = max((_row_tokens(job) for job in jobs), default=1)
    return max(1, min(most, budget // ((longest + 2 * BLOCK) * entry_bytes)))


def _row_tokens(job: Job) -> int:
    """Tokens a row of this job holds at the end, layer by layer on average."""
    prompt, policy = job.prompt, job.policy
    kept = policy.n_kept(prompt.context_length) if policy.evicts and prompt.context_length else prompt.context_length
    begun = kept + len(prompt.tokens) - prompt.context_length
    if not isinstance(job.want, Generate):
        return begun + len(job.want.continuation)
    if policy.decode_budget is not None:
        return max(begun, min(begun + job.want.max_tokens, policy.decode_budget + policy.decode_every))
    return begun + job.want.max_tokens


def entry_bytes(model: PreTrainedModel) -> int:
    """Bytes of one token's keys and values in all layers of a model attached to the seam, seen on one token."""
    counter = _Counter()
    device: Any = model.get_input_embeddings().weight.device
    token = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.inference_mode():
        model(input_ids=token, position_ids=token, use_cache=False, kv=counter)
    return counter.nbytes


class _Counter:
    """A phase that lets a lone token attend to itself and adds up its keys and values."""

    def __init__(self) -> None:
        self.nbytes = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        self.nbytes += k.nbytes + v.nbytes
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1).transpose(1, 2)


def _free(device: torch.device) -> int:
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free)
