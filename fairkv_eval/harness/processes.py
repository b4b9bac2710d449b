"""Several processes of one run: each evaluates every n-th document, and the first puts their results together."""

from __future__ import annotations

import inspect
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

from fairkv_eval.errors import UsageError

_MISSING = object()

Gathered = Sequence[Mapping[str, Any]]


class Processes(HFLM):
    """`hf` under ``accelerate launch``: the numbers of one process, from several on one machine or on many."""

    _notes: Counter[str]

    def _join_processes(self) -> None:
        """Take part by global index, on CPUs and on several machines too, where `hf` does not.

        UsageError where processes were launched together and this one runs alone: each would do all of the work.
        """
        accelerator = getattr(self, "accelerator", None)
        launched = int(os.environ.get("WORLD_SIZE") or 1)
        if accelerator is not None and accelerator.num_processes > 1:
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
            bootstrap_without_forks()
        elif launched > 1 and isinstance(self.pretrained, str):
            raise UsageError(
                f"{launched} processes were launched (WORLD_SIZE) and do not know of each other; processes on CPUs "
                "join with ACCELERATE_USE_CPU=true in their environment"
            )

    def all_gather(self, tensor: Tensor) -> Tensor:
        """This process's number for every process, where it is a single one; else what it says.

        The harness asks for one thing: how many requests each process has, to repeat requests where there are fewer.
        No process waits for another's forward passes here, and repeats would be counted, logged and scored.
        """
        return tensor.expand(self.world_size) if tensor.dim() == 0 else super().all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """What all processes give, at process ``dst``. Samples and metrics come in the order of the documents.

        Left as they are, metrics that only some processes have would end the run with a KeyError, or be dropped.
        """
        gathered = super().gather_object(obj, dst)
        if self.world_size == 1 or not gathered or not all(isinstance(part, dict) for part in gathered):
            return gathered
        unknown = [(task, key) for task, new in _unknown(gathered).items() for key in new]
        # The harness takes the names of the metrics from its own table, which no argument or result reaches.
        frame = inspect.currentframe()
        caller = frame.f_back.f_locals if frame and frame.f_back else {}
        table = caller.get("eval_results_acc", {})
        for task, key in unknown:
            if task in table:
                table[task]["raw_metrics"].setdefault(key, [])
            else:
                self._notes[f"left out, since the first process has no document with it: {task} {key}"] += 1
        return in_order(gathered)


def bootstrap_without_forks() -> None:
    """For processes that have threads of a process group or of Ray.

    The harness forks workers to bootstrap a standard error, and such a fork may wait forever for a lock that a thread
    held. The variable is the harness's own switch.
    """
    os.environ.setdefault("DISABLE_MULTIPROC", "1")


def in_order(gathered: Gathered) -> list[dict[str, Any]]:
    """Samples ``{task: [sample]}`` or metrics ``{task: {(metric, filter): [value]}}`` of all processes, moved to the
    first and sorted as one process would have them; the others keep the names with nothing in them.
    """
    first: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for task in gathered[0]:
        parts = [part[task] for part in gathered]
        if isinstance(parts[0], dict):
            keys = dict.fromkeys(chain.from_iterable(parts))
            first[task] = {key: interleaved([part.get(key, []) for part in parts]) for key in keys}
            rest[task] = {key: [] for key in keys}
        else:
            filters = dict.fromkeys(sample.get("filter") for sample in chain.from_iterable(parts))
            columns = ([[s for s in part if s.get("filter") == name] for part in parts] for name in filters)
            first[task] = [sample for column in columns for sample in interleaved(column)]
            rest[task] = []
    return [first, *([rest] * (len(gathered) - 1))]


def interleaved(parts: Iterable[Sequence[Any]]) -> list[Any]:
    """The first entries of all parts, then the second: documents are dealt out in turn."""
    return [entry for row in zip_longest(*parts, fillvalue=_MISSING) for entry in row if entry is not _MISSING]


def _unknown(gathered: Gathered) -> dict[str, list[Any]]:
    """The metrics of each task that the first process has no document with."""
    return {
        task: [key for key in dict.fromkeys(chain.from_iterable(part[task] for part in gathered)) if key not in own]
        for task, own in gathered[0].items()
        if isinstance(own, dict)
    }
