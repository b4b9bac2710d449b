"""The bootstrap over documents: how far a statistic moves on other draws of the same documents.

Task metrics, comparisons and figures use it, and metrics may not import analysis: so it stands below all three. Seeds
are fixed, so the same documents give the same numbers in every run and process, up to the last bits: matrix products
round otherwise with another number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ENDS = ((1 - 0.95) / 2, 1 - (1 - 0.95) / 2)  # of a 95 % interval; 0.025 would be another number in its last bit
BLOCK = 1 << 22  # numbers held at once


def draws(n: int, resamples: int, seed: int | tuple[int, ...] = 0) -> NDArray[np.int64]:
    """The documents of each resample, ``[resamples, n]``, drawn from n with replacement."""
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def weights(n: int, resamples: int, seed: int = 0) -> Iterator[Floats]:
    """The weight of each document in each resample: blocks ``[rows, n]`` with ``resamples`` rows in all."""
    rows = max(1, BLOCK // n)
    for start in range(0, resamples, rows):
        yield _block(n, min(rows, resamples - start), seed, start)


@lru_cache(maxsize=4)
def _block(n: int, rows: int, seed: int, start: int) -> Floats:
    offsets = n * np.arange(rows)[:, None]
    counts = np.bincount((draws(n, rows, (seed, n, start)) + offsets).ravel(), minlength=rows * n)
    return counts.reshape(rows, n) / n


def standard_error(resampled: Floats) -> float:
    """The standard deviation of a statistic over the resamples in which it is not NaN; NaN for fewer than two."""
    defined = resampled[~np.isnan(resampled)]
    return float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan


def interval(resampled: Floats, ends: tuple[float, float] = ENDS) -> tuple[Floats, Floats]:
    """The ends of the percentile interval of each column of ``resampled`` ``[resamples, ...]``."""
    low, high = np.quantile(resampled, ends, axis=0)
    return low, high


def p_value(resampled: Floats) -> float:
    """Two-sided, that a statistic is 0, of which these are the resamples ``[resamples]``."""
    less, more = (resampled <= 0).sum(), (resampled >= 0).sum()
    return float(min(1.0, (2 * min(less, more) + 1) / (len(resampled) + 1)))


def mean_intervals(values: Floats, resamples: int, seed: int = 0) -> tuple[Floats, Floats]:
    """The ends of the interval of each column's mean, values ``[n, columns]``; NaN if n is below 2.

    Columns share their resamples, so all of them take one matrix product.
    """
    n, columns = values.shape
    if n < 2:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    low, high = np.empty(columns), np.empty(columns)
    width = max(1, BLOCK // resamples)
    for start in range(0, columns, width):
        block = slice(start, start + width)
        means = np.concatenate([rows @ values[:, block] for rows in weights(n, resamples, seed)])
        low[block], high[block] = interval(means)
    return low, high


def resampled_means(values: Floats, resamples: int, seed: int = 0) -> Floats:
    """Means ``[resamples, metrics]`` of values ``[n, metrics]``, each over the documents in which it is not NaN."""
    return weighted_means(np.concatenate(list(weights(len(values), resamples, seed))), values)


def weighted_means(rows: Floats, values: Floats) -> Floats:
    """Means of values ``[n, metrics]`` under each of several weightings ``[rows, n]``; NaN if no value has weight."""
    defined = ~np.isnan(values)
    total = rows @ defined
    sums = rows @ np.where(defined, values, 0)
    return np.divide(sums, total, out=np.full_like(total, np.nan), where=total > 0)
