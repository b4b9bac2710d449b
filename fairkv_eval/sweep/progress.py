"""How far a sweep is: counts beside a progress bar, and Ray workers' bars, which report instead of drawing.

Each worker's tqdm bars report to an actor, `WorkerBars`, and the driver shows all of them as one bar.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from fairkv_eval.engine.jobs import Job, LogLikelihood
from fairkv_eval.engine.result import Result
from fairkv_eval.sweep.journal import Key

Bars = Callable[..., tqdm]  # tqdm, or something that takes its arguments


class AnswerCounter:
    """Counts the cells and prompts that have all their answers, and tokens per second since it was made.

    ``keys``: of all answers that are going to be added.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        self._missing = Counter(group for key in keys for group in _groups(key))
        self._totals = Counter(kind for kind, _ in self._missing)
        self._complete: Counter[str] = Counter()
        self._tokens = 0
        self._began = time.perf_counter()

    def add(self, key: Key, job: Job, result: Result) -> str:
        """Count an answer; return the text beside the bar: ``1/5 cells, 7/14 prompts, 92 tokens/s``."""
        self._tokens += len(job.want.continuation) if isinstance(job.want, LogLikelihood) else len(result.tokens)
        for group in _groups(key):
            self._missing[group] -= 1
            self._complete[group[0]] += not self._missing[group]
        counts = [f"{self._complete[kind]}/{total} {kind}" for kind, total in self._totals.items()]
        return f"{', '.join(counts)}, {self._tokens / (time.perf_counter() - self._began):.0f} tokens/s"


def _groups(key: Key) -> tuple[tuple[str, Hashable], ...]:
    """What an answer is part of: a cell, and a prompt under all policies."""
    return ("cells", key.cell), ("prompts", (key.request, key.repeat))


# --- the bars of Ray's workers


class BarPosition(NamedTuple):
    """``done`` of ``total``, and the text beside the bar."""

    done: float
    total: float
    text: str

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 1.0


class ReportingBar(tqdm):
    """A bar that calls ``report(name, position)`` whenever it would be drawn."""

    def __init__(self, *, report: Callable[[str, BarPosition], object], **kwargs: Any) -> None:
        self._report = report  # before tqdm's own, which shows the bar for the first time
        super().__init__(file=io.StringIO(), **kwargs)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self._report(self.desc, BarPosition(self.n or 0, self.total or 0, str(self.postfix or "")))


Positions = Mapping[str, Mapping[str, BarPosition]]  # by worker and by the bar's name


class WorkerBars:
    """The positions that workers report; an actor of Ray."""

    def __init__(self) -> None:
        self._positions: dict[str, dict[str, BarPosition]] = {}

    def report(self, worker: str, name: str, position: BarPosition) -> None:
        self._positions.setdefault(worker, {})[name] = position

    def positions(self) -> Positions:
        return self._positions


def cells_done(positions: Positions, cells: Mapping[str, int], bars: int) -> float:
    """How many cells of the running workers ({worker: its cells}) are done, shares of unfinished ones included. A
    worker goes through ``bars`` bars, one after the other."""
    shares = {worker: sum(bar.share for bar in positions.get(worker, {}).values()) / bars for worker in cells}
    return sum(count * min(1.0, shares[worker]) for worker, count in cells.items())


def running_bars(positions: Positions, workers: Iterable[str]) -> str:
    """The last bar of each of these workers that has reported, as text."""
    bars = [list(positions[worker].items())[-1] for worker in workers if positions.get(worker)]
    return "; ".join(f"{name} {b.done:g}/{b.total:g}{f' ({b.text})' if b.text else ''}" for name, b in bars)
