"""Spearman correlations between rankings of instruction classes, with bootstrap intervals."""

from __future__ import annotations

import numpy as np

from fairkv_eval import bootstrap
from fairkv_eval.analysis.spearman import spearman
from fairkv_eval.bootstrap import Floats
from fairkv_eval.figures.figure import Point
from fairkv_eval.figures.model_results import TaskResults
from fairkv_eval.figures.sample_values import RESAMPLES, interval
from fairkv_eval.results.record import Record


def rank_correlation(task: TaskResults, record: Record) -> Point | None:
    """Correlation of the classes' accuracies with those of the full cache."""
    accuracies = task.class_accuracies(record)
    reference = task.full and task.class_accuracies(task.full)
    if not task.full or not accuracies or not reference:
        return None
    a, b = (np.asarray([list(scores.values())]) for scores in (accuracies, reference))
    names = [f"acc_{name}" for name in task.classes]
    return _point(a, b, *(task.samples.resampled_means(r, names) for r in (record, task.full)))


def single_with_multi(task: TaskResults, record: Record) -> Point | None:
    """Correlation of the classes' accuracies in prompts with one instruction and with several."""
    values = task.samples.table(record, [*(f"acc_{name}" for name in task.classes), "acc_single"])
    if values is None:
        return None
    single = ~np.isnan(values[:, -1])
    alone, together = (np.where(rows[:, None], values[:, :-1], np.nan) for rows in (single, ~single))
    both = ~(np.isnan(alone).all(axis=0) | np.isnan(together).all(axis=0))
    if both.sum() < 3:
        return None
    parts = alone[:, both], together[:, both]
    whole = np.full((1, len(values)), 1 / len(values))
    means = (bootstrap.weighted_means(whole, part) for part in parts)
    return _point(*means, *(bootstrap.resampled_means(part, RESAMPLES) for part in parts))


def _point(a: Floats, b: Floats, resampled_a: Floats | None, resampled_b: Floats | None) -> Point | None:
    value = float(spearman(a, b)[0])
    if not np.isfinite(value):
        return None
    if resampled_a is None or resampled_b is None or resampled_a.shape != resampled_b.shape:
        return value, None, None
    return value, *interval(spearman(resampled_a, resampled_b))
