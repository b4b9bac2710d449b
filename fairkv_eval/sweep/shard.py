"""One part of a sweep's documents: several processes or machines answer a part each, and the sweep then writes its
cells from their answers."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass

from fairkv_eval.errors import UsageError
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.run import check_launch, task_runs
from fairkv_eval.sweep.tasks import load_tasks


@dataclass(frozen=True)
class Shard:
    """Every ``count``-th document of each task, from the ``number``-th on, which counts from 1."""

    number: int
    count: int

    @classmethod
    def read(cls, text: str) -> Shard:
        """Read ``2/3``, the second of three."""
        numbers = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        shard = cls(*map(int, numbers.groups())) if numbers else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise UsageError(f"--shard {reprlib.repr(text)} is not allowed; it takes k/n with k from 1 to n, as in 2/3")
        return shard

    @property
    def name(self) -> str:
        return f"{self.number}-of-{self.count}"

    def documents(self, ids: Iterable[int]) -> set[int]:
        """Its documents of those with these ids."""
        return set(sorted(set(ids))[self.number - 1 :: self.count])


def run_shard(sweep: Sweep, shard: Shard) -> int:
    """Compute the missing answers to a shard's documents, and their fidelity if that is wanted; return how many answers
    the shard has. No cell is written: the sweep without a shard does that, and computes what no shard has answered."""
    check_launch(sweep)
    loaded = [(arguments, load_tasks(sweep, arguments)) for arguments in sweep.models]
    folder, answered = SweepFolder(sweep.output_path), 0
    with folder.lock(shard.name):
        for arguments, tasks in loaded:
            runs = task_runs(sweep, arguments, tasks, shard.documents)
            with folder.journal(f"journal-{shard.name}") as journal:
                for run in runs:
                    run.answer(journal)
                    run.follow(journal)
                    answered += len(run.cells) * len(run.slots)
    return answered
