"""What a figure draws of one record: a value and, if the data allow it, its interval."""

from __future__ import annotations

import numpy as np

from fairkv_eval.figures.figure import Point
from fairkv_eval.figures.model_results import TaskResults
from fairkv_eval.figures.sample_values import interval
from fairkv_eval.metrics.fairness import relative_spread
from fairkv_eval.results.record import Record

_Z = 1.96  # standard errors on either side of a 95 % interval
_SHARES = ("acc", "prompt_level_", "inst_level_", "rouge", "leak@", "keep_rate", "refusal", "needless_refusal")


def measured(record: Record, metric: str) -> Point | None:
    """A metric's value with its interval from the harness's standard error; None if the record lacks it."""
    entry = record.metrics.get(metric)
    if entry is None or not np.isfinite(entry.value):
        return None
    if entry.stderr is None or not np.isfinite(entry.stderr):
        return entry.value, None, None
    low, high = entry.value - _Z * entry.stderr, entry.value + _Z * entry.stderr
    # Close to their ends the normal interval leaves what shares can be.
    share = metric.startswith(_SHARES)
    return entry.value, max(low, 0.0) if share else low, min(high, 1.0) if share else high


def relative_to_full(task: TaskResults, record: Record, metric: str) -> Point | None:
    """A metric divided by the full cache's, with a paired bootstrap interval if both runs logged samples."""
    if task.full is None or metric not in record.metrics or metric not in task.full.metrics:
        return None
    whole = task.full.metrics[metric].value
    if not whole:
        return None
    value = record.metrics[metric].value / whole
    means, full = (task.samples.resampled_means(r, (metric,)) for r in (record, task.full))
    if means is None or full is None or means.shape != full.shape:
        return value, None, None
    return value, *interval(np.divide(means, full, out=np.full_like(means, np.nan), where=full > 0)[:, 0])


def accuracy_and_spread(task: TaskResults, record: Record) -> tuple[float, float] | None:
    """(mean accuracy over the classes, `relative_spread`), without the classes that the full cache never follows."""
    accuracies = task.class_accuracies(record)
    reference = task.full and task.class_accuracies(task.full)
    if not accuracies or not reference:
        return None
    followed = [accuracy for name, accuracy in accuracies.items() if reference[name] > 0]
    return (float(np.mean(followed)), relative_spread(accuracies, reference)) if len(followed) > 1 else None
