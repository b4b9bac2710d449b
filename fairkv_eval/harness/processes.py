"""Several processes of one run: each evaluates every n-th document, and the first merges their results."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.harness.run_log import RunLog
from fairkv_eval.loading_output import quiet_loading

_MISSING = object()

Gathered = Sequence[Mapping[str, Any]]


class Processes(HFLM):
    """`hf` under ``accelerate launch``: several processes, on one machine or on many, give the numbers of one.

    ``run_log`` is this process's; the first process holds the sum of all logs after each `barrier`.
    UsageError: the model's files cannot be read.
    """

    def __init__(self, pretrained: Any, **arguments: Any) -> None:
        self.run_log = RunLog()
        try:
            with quiet_loading(lambda: self.model):
                super().__init__(pretrained, **arguments)
        except OSError as error:  # also for a hub that does not answer
            reason = " ".join(str(error).split())
            raise UsageError(f"pretrained={pretrained!r:.200} cannot be loaded: {reason}") from error
        self.join_processes()

    def join_processes(self) -> None:
        """Take part under the global index, also on CPUs and on several machines, where `hf` does not.

        UsageError if processes were launched together and this one runs alone: each would do all of the work.
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

    def barrier(self) -> None:
        """Wait for all processes, and move their logs to the first one.

        The harness calls it after each type of request. Every process is present then, even one whose answers all came
        from a response cache.
        """
        super().barrier()
        if self.world_size > 1:
            for run_log in self.gather_object(self.run_log.handed_over()) or ():
                self.run_log.add(run_log)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Repeat a scalar for every process instead of gathering it; gather anything else.

        The harness gathers one scalar: the number of requests of each process, to repeat requests in those with fewer.
        No process waits for another's forward passes here, and repeated requests would be counted, logged and scored.
        """
        return tensor.expand(self.world_size) if tensor.dim() == 0 else super().all_gather(tensor)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """Gather an object per process at process ``dst``; samples and metrics in the order of the documents.

        A metric that the first process has no document with gets a place in the harness's table. It would end the run
        with a KeyError otherwise, or be dropped.
        """
        gathered = super().gather_object(obj, dst)
        if self.world_size == 1 or not gathered or not all(isinstance(part, dict) for part in gathered):
            return gathered
        missing = [(task, key) for task, keys in _missing_from_first(gathered).items() for key in keys]
        # The harness takes the names of the metrics from a local variable of the function that calls this one, and
        # neither an argument nor a result reaches it. A hook upstream, to name a task's metrics, would replace this.
        frame = inspect.currentframe()
        caller = frame.f_back.f_locals if frame and frame.f_back else {}
        table = caller.get("eval_results_acc", {})
        for task, key in missing:
            if task in table:
                table[task]["raw_metrics"].setdefault(key, [])
            else:
                self.run_log.note(f"left out, since the first process has no document with it: {task} {key}")
        return in_order(gathered)


def bootstrap_without_forks() -> None:
    """Keep the harness from forking, in processes that have threads of a process group or of Ray.

    The harness forks workers to bootstrap a standard error. Such a fork may wait forever for a lock that a thread
    held. The variable is the harness's own switch.
    """
    os.environ.setdefault("DISABLE_MULTIPROC", "1")


def in_order(gathered: Gathered) -> list[dict[str, Any]]:
    """Move all samples or metrics to the first process, in the order in which one process alone would have them.

    gathered: per process, samples ``{task: [sample]}`` or metrics ``{task: {(metric, filter): [value]}}``. The other
    processes keep the names, with empty lists.
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
    """The first entries of all parts, then the second ones …: documents are dealt out in turn."""
    return [entry for row in zip_longest(*parts, fillvalue=_MISSING) for entry in row if entry is not _MISSING]


def _missing_from_first(gathered: Gathered) -> dict[str, list[Any]]:
    """The metrics of each task that the first process has no document with."""
    return {
        task: [key for key in dict.fromkeys(chain.from_iterable(part[task] for part in gathered)) if key not in metrics]
        for task, metrics in gathered[0].items()
        if isinstance(metrics, dict)
    }
