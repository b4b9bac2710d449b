"""How many rows a memory budget holds, computed from the bytes of their KV pairs instead of tried out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import psutil
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.seam import embedding
from fairkv_eval.engine.buffer import BLOCK
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.errors import UsageError
from fairkv_eval.storage.room import Entry

GIB = 1 << 30


def memory_budget(kv_memory: float, device: torch.device) -> int:
    """Bytes for the rows' KV pairs: ``kv_memory`` GiB, or below 1 that part of the device's free memory."""
    number = isinstance(kv_memory, (int, float)) and not isinstance(kv_memory, bool)
    if not number or not 0 < kv_memory < math.inf:
        raise UsageError(
            f"kv_memory={kv_memory!r} is not allowed; it takes GiB from 1, or below 1 a part of "
            "the device's free memory"
        )
    return int(kv_memory * (_free(device) if kv_memory < 1 else GIB))


def rows_that_fit(jobs: Sequence[Job], entries: Sequence[Entry], budget: int, max_rows: int) -> int:
    """Rows of these jobs that a budget of bytes holds, at least 1 and at most ``max_rows``.

    entries: of each layer. Every row counts as large as the largest becomes, since the rows of a layer share a buffer,
    and with the room that such a buffer grows by.
    """
    largest = max((_row_bytes(entries, job) for job in jobs), default=1)
    return max(1, min(max_rows, budget // largest))


def _row_bytes(entries: Sequence[Entry], job: Job) -> int:
    """Bytes of a row of this job at the end, room to grow included."""
    n, storage = _row_tokens(entries, job) + 2 * BLOCK, job.policy.storage
    if storage.plain:
        return sum(entry.nbytes_plain(n) for entry in entries)
    # One layer at a time is unpacked. A buffer has room for the plain pairs of a window that is full.
    room = n + storage.window + storage.unit
    return sum(entry.nbytes(room, storage) for entry in entries) + max(entry.nbytes_plain(room) for entry in entries)


def _row_tokens(entries: Sequence[Entry], job: Job) -> int:
    """Tokens a row of this job holds at the end, layer by layer on average."""
    prompt, policy, n = job.prompt, job.policy, job.prompt.context_length
    kept = policy.n_kept(n, entries) if policy.evicts and n else n
    at_start = kept + len(prompt.tokens) - prompt.context_length
    if not isinstance(job.want, Generation):
        return at_start + len(job.want.continuation)
    if policy.decode_budget is not None:
        return max(at_start, min(at_start + job.want.max_tokens, policy.decode_budget + policy.decode_every))
    return at_start + job.want.max_tokens


def entries(model: PreTrainedModel) -> list[Entry]:
    """What one token adds to each layer of a model attached to the seam, measured on one token."""
    counter = _Counter()
    token = torch.zeros(1, 1, dtype=torch.long, device=embedding(model).device)
    with torch.inference_mode():
        model(input_ids=token, position_ids=token, use_cache=False, kv=counter)
    return counter.entries


class _Counter:
    """A phase that lets a lone token attend to itself and notes its keys and values."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`."""
        self.entries.append(Entry(k.shape[1], k.shape[3], v.shape[3], k.dtype, options.window))
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1).transpose(1, 2)


def _free(device: torch.device) -> int:
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free, _ = torch.get_device_module(device).mem_get_info(device)
    return int(free)
