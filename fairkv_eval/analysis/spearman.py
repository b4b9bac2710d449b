"""Spearman's rank correlation, of many pairs of rankings at once."""

from __future__ import annotations

import numpy as np

from fairkv_eval.bootstrap import Floats


def spearman(a: Floats, b: Floats) -> Floats:
    """The correlation of each row of a and b ``[rows, ranked]``; NaN if a row is constant or incomplete."""
    from scipy.stats import rankdata

    # Rounded, so that equal shares of documents are ties however they were summed.
    x, y = (rankdata(np.round(rows, 9), axis=1, nan_policy="propagate") for rows in (a, b))
    x, y = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (x, y))
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), size, out=np.full(len(x), np.nan), where=size > 0)
