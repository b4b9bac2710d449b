"""The upper bound on an expected loss that paired losses by document allow, with a stated confidence.

A betting test (Waudby-Smith and Ramdas, arXiv 2010.09686).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fairkv_eval.bootstrap import Floats

# Shares of the largest bet, and the weight of each: half as much for a bet 1/√2 times as large. Small bets only pay
# with many documents, and those make up for their small weight.
_BETS = 0.95 * 2.0 ** (-np.arange(16) / 2)
_LOG_WEIGHTS = -np.log(2.0) * np.minimum(np.arange(1, 17), 15)


def upper_bound(losses: Sequence[float] | Floats, level: float) -> float:
    """The smallest b for which "the expected loss is above b" is refuted at this level; losses in [−1, 1].

    Under the hypothesis no bet on smaller losses is expected to gain, so wealth of 1/level is reached with a chance of
    at most ``level``. The bettor splits the stake over fixed bets, so the order of documents does not matter. 1 if
    nothing smaller is refuted.
    """
    from scipy.optimize import brentq

    values = np.asarray(losses, dtype=float)
    enough = -np.log(level)

    def short(bound: float) -> float:
        return enough - _log_wealth(values, bound)

    low, high = -1.0, 1 - 1e-9
    if short(high) > 0:
        return 1.0
    if short(low) <= 0:
        return low
    return float(brentq(short, low, high, xtol=1e-9)) + 1e-9


def documents_needed(losses: Sequence[float] | Floats, bound: float, level: float) -> int | None:
    """The number of documents with losses like these that would refute "the expected loss is above the bound"; None if
    no number would."""
    values = np.asarray(losses, dtype=float)
    growth = _log_bets(values, bound) / len(values)
    paying = growth > 0
    if not paying.any():
        return None
    high = int(np.ceil(np.min((-np.log(level) - _LOG_WEIGHTS[paying]) / growth[paying])))
    low = 0
    while low + 1 < high:
        middle = (low + high) // 2
        enough = np.logaddexp.reduce(_LOG_WEIGHTS + middle * growth) >= -np.log(level)
        low, high = (low, middle) if enough else (middle, high)
    return high


def _log_wealth(losses: Floats, bound: float) -> float:
    return float(np.logaddexp.reduce(_LOG_WEIGHTS + _log_bets(losses, bound)))


def _log_bets(losses: Floats, bound: float) -> Floats:
    """The logarithm of the wealth of each bet after all losses. The largest bet would lose all at a loss of 1."""
    bets = _BETS / (1 - bound)
    return np.log1p(bets[:, None] * (bound - losses)[None, :]).sum(axis=1)
