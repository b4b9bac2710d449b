"""Cells of findings, made without files: values by document of policies."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.results.record import Metric, Record
from fairkv_eval.results.recorded_policy import RecordedPolicy

FULL = RecordedPolicy()
LOWER_IS_BETTER = ("leak", "rouge", "fidelity_kl")
_WHOLE = 1000.0

Table = Mapping[str, Sequence[float]]


def policy(press: str, ratio: float = 0.0, **arguments: Any) -> RecordedPolicy:
    return RecordedPolicy(press=press, ratio=ratio, **arguments)


def task_cells(
    task: str,
    tables: Mapping[RecordedPolicy, Table],
    origins: Sequence[Hashable] | None = None,
    held: Mapping[RecordedPolicy, float] | None = None,
) -> TaskCells:
    """``held``: the share of the full cache's bytes of a policy, if it is not 1 − ratio."""
    arrays = {p: {name: np.asarray(of, float) for name, of in table.items()} for p, table in tables.items()}
    n = len(next(iter(next(iter(arrays.values())).values())))
    records = {p: _record(task, p, table, n, (held or {}).get(p, 1 - p.ratio)) for p, table in arrays.items()}
    return TaskCells(task, records, arrays, tuple(origins or range(n)))


def model_cells(*tasks: TaskCells) -> ModelCells:
    return ModelCells("someone/small-model", {cells.task: cells for cells in tasks})


def _record(task: str, of: RecordedPolicy, table: Mapping[str, Any], n: int, held: float) -> Record:
    directed = {name: not name.startswith(LOWER_IS_BETTER) for name in table if not name.startswith("keep_rate")}
    return Record(
        path=Path(f"{of.slug()}.json"),
        source="fairkv",
        model="someone/small-model",
        model_sha=None,
        policy=of,
        conditions=(),
        task=task,
        version=1,
        metrics={name: Metric(float(np.nanmean(values)), None, n) for name, values in table.items()},
        higher_is_better=directed,
        n=n,
        n_original=n,
        limit=None,
        achieved_ratio=of.ratio,
        answers_cut=None,
        kv_bytes_full=_WHOLE,
        kv_bytes_kept=_WHOLE * held,
        tokens_per_second={},
        date=None,
        commit=None,
        versions={},
        task_hash=None,
        arguments={},
    )
