"""The metrics of logged samples, and their means over resampled documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fairkv_eval import bootstrap
from fairkv_eval.bootstrap import Floats
from fairkv_eval.errors import UsageError
from fairkv_eval.results.reader import Problem
from fairkv_eval.results.record import Record

RESAMPLES = 500
# Not bootstrap.ENDS: its last bit differs, and published figures would be drawn anew.
_ENDS = (0.025, 0.975)


class SampleValues:
    """Values by document of the records of a task. The samples of each are read once, when they are first needed."""

    def __init__(self) -> None:
        self._by_record: dict[tuple[Path, str], Mapping[str, Mapping[str, float]]] = {}
        self.problems: list[Problem] = []  # samples that cannot be read

    def table(self, record: Record, metrics: Sequence[str]) -> Floats | None:
        """Values ``[documents, metrics]``, NaN if a metric does not apply; None without logged samples."""
        if record.sample_source is None:
            return None
        key = (record.path, record.task)
        if key not in self._by_record:
            self._by_record[key] = self._read(record)
        documents = self._by_record[key]
        if not documents:
            return None
        rows = [[documents[name].get(metric, np.nan) for metric in metrics] for name in sorted(documents)]
        return np.asarray(rows, dtype=float)

    def _read(self, record: Record) -> Mapping[str, Mapping[str, float]]:
        try:
            return record.samples()
        except UsageError as error:
            self.problems.append(Problem(record.path, f"without its samples: {error}"))
            return {}

    def resampled_means(self, record: Record, metrics: Sequence[str]) -> Floats | None:
        """Means ``[resamples, metrics]`` over resampled documents, which are the same for every record of a task."""
        values = self.table(record, metrics)
        return None if values is None or len(values) < 2 else bootstrap.resampled_means(values, RESAMPLES)


def interval(resampled: Floats) -> tuple[float | None, float | None]:
    """The ends of the interval of a statistic ``[resamples]``; (None, None) if it is undefined in half of them."""
    defined = resampled[np.isfinite(resampled)]
    if len(defined) < RESAMPLES / 2:
        return None, None
    low, high = bootstrap.interval(defined, _ENDS)
    return float(low), float(high)
