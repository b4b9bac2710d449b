"""Paired statistics of runs over the same documents: differences, correction for many of them, ranks with ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fairkv_eval.bootstrap import Floats, mean_intervals
from fairkv_eval.errors import UsageError

Values = Sequence[float] | Floats  # by document

_SHARES = 840  # lcm of 1 to 8: a document's share of up to 8 instructions is a whole number of these
_GRID = 8192  # steps that the absolute differences sum to if they are not such shares
_TESTED = 2000  # comparisons of one ranking that are tested exactly
_ALL = 200  # comparisons up to which all are
_PINELIS = 2 * np.e**3 / 9
_EXACT = 1000  # differences up to which the test counts every choice of signs


@dataclass(frozen=True)
class Difference:
    """Mean of a − b over n documents, its 95 % interval and the p-value of "there is none"; with a single document
    the interval is (nan, nan) and p is 1."""

    n: int
    mean: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Rank:
    """A name's place: 1 + the number of others that are significantly better; equal ranks are ties."""

    name: str
    mean: float
    rank: int


def difference(a: Values, b: Values, *, resamples: int = 2000, seed: int = 0) -> Difference:
    """Paired difference of two runs: a[i] and b[i] are the same document. See `differences`."""
    return differences([(a, b)], resamples=resamples, seed=seed)[0]


def differences(pairs: Sequence[tuple[Values, Values]], *, resamples: int = 2000, seed: int = 0) -> list[Difference]:
    """The `Difference` of every pair (a, b): the same as one by one, but much faster.

    Interval: percentile bootstrap over documents; pairs of equal length share their resamples, so it is one matrix
    product for all of them. p: sign-flip permutation test, two-sided (`sign_flip`), which on 0/1 values is the exact
    McNemar test. Raise UsageError for unequal lengths, no document, or a value that is not finite.
    """
    gaps = [_gaps(a, b) for a, b in pairs]
    by_length: dict[int, list[int]] = {}
    for index, gap in enumerate(gaps):
        by_length.setdefault(len(gap), []).append(index)
    intervals: dict[int, tuple[float, float]] = {}
    for indices in by_length.values():
        lows, highs = mean_intervals(np.stack([gaps[i] for i in indices], axis=1), resamples, seed)
        intervals |= {i: (float(low), float(high)) for i, low, high in zip(indices, lows, highs, strict=True)}
    return [Difference(len(gap), float(gap.mean()), *intervals[i], sign_flip(gap)) for i, gap in enumerate(gaps)]


def sign_flip(gaps: Values) -> float:
    """Two-sided p-value of paired differences: the share of random signs with a sum at least as far from 0.

    Exact up to 1000 differences that are not 0, by counting all signs with the shift algorithm (Streitberg and Röhmel
    1986) on a grid; beyond that by the normal approximation. Differences that are not shares of up to 8 are rounded to
    the grid, evenly around 0, so the test is that of the rounded values and remains valid. 1 without any difference.
    """
    from scipy.special import ndtr

    values = np.asarray(gaps, dtype=float)
    values = values[values != 0]
    if values.size > _EXACT:
        return float(2 * ndtr(-abs(values.sum()) / np.sqrt((values**2).sum())))
    if (np.abs(values) == 1).all():  # as `_steps` gives, at a tenth of the cost
        return _share_as_far(np.ones(values.size, dtype=np.int64).tobytes(), abs(int(values.sum())))
    steps = _steps(values)
    return _share_as_far(np.sort(np.abs(steps[steps != 0])).tobytes(), abs(int(steps.sum())))


@lru_cache(maxsize=1 << 14)
def _share_as_far(sorted_sizes: bytes, observed: int) -> float:
    """The share of all signs of these whole numbers (of 8 bytes each) whose sum is at least as far from 0.

    Small ones come first: most sums then have few values.
    """
    sizes = np.frombuffer(sorted_sizes, dtype=np.int64)
    total = int(sizes.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    reached = 0
    for size in sizes.tolist():
        ways[size : reached + size + 1] += ways[: reached + 1].copy()
        reached += size
    signed = np.abs(2 * np.arange(total + 1) - total)  # a sum of plus terms s leaves total − s minus
    return float(min(1.0, ways[signed >= observed].sum() / 2.0**sizes.size))


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm): the chance that any below alpha is wrong is at most alpha."""
    values = np.asarray(ps, dtype=float)
    if not ((values >= 0) & (values <= 1)).all():
        raise UsageError(f"p-values lie between 0 and 1, not {values.tolist()}")
    return _holm(values).tolist()


def _holm(ps: Floats) -> Floats:
    """Each p-value times the number of those that are not smaller, and no smaller than the one before it."""
    order = np.argsort(ps)
    raised = np.maximum.accumulate(ps[order] * np.arange(len(ps), 0, -1))
    corrected = np.empty_like(ps)
    corrected[order] = np.minimum(raised, 1.0)
    return corrected


def ranks(scores: Mapping[str, Values], *, higher_is_better: bool = True, alpha: float = 0.05) -> list[Rank]:
    """Names, best mean first, ranked by their scores over the same documents.

    A rank counts those that are better with a p below alpha, corrected (Holm) for comparing all with all. The test is
    `sign_flip`, as of every difference. A thousand names are half a million comparisons, so only those are tested that
    its normal approximation leaves open (see `_tested`).
    """
    from scipy.special import ndtr

    if not scores:
        return []
    names = list(scores)
    values = _same_length(scores)  # [names, n]
    about = values - values.mean(axis=0)  # the same differences, without the cancellation of large values
    first, second = np.triu_indices(len(names), 1)
    gram = about @ about.T
    squares = np.diag(gram)
    size = np.sqrt(np.maximum(squares[first] + squares[second] - 2 * gram[first, second], 0))
    sums = about.sum(axis=1)
    far = np.divide(np.abs(sums[first] - sums[second]), size, out=np.zeros(len(first)), where=size > 1e-9)
    differing = _differing(values)[first, second]
    ps = np.minimum(1.0, np.maximum(2 * ndtr(-far), 2.0 ** (1.0 - differing)))
    significant = _holm(_tested(ps, values, first, second, alpha)) < alpha
    first_better = (sums[first] > sums[second]) == higher_is_better
    losers = np.where(first_better, second, first)[significant]
    place = 1 + np.bincount(losers, minlength=len(names))
    best_first = sorted(range(len(names)), key=lambda i: (-sums[i] if higher_is_better else sums[i], names[i]))
    return [Rank(names[i], float(values[i].mean()), int(place[i])) for i in best_first]


def _tested(ps: Floats, values: Floats, first: NDArray[np.int64], second: NDArray[np.int64], alpha: float) -> Floats:
    """Approximate p-values, with exact ones for the pairs on which the ranks may depend, those nearest to alpha first.

    No exact p is above 4.47 times the normal approximation (Pinelis 1994, 2e³/9), so a pair that is significant at that
    remains so. Among more than _ALL pairs one whose approximate p is above alpha keeps it.
    """
    highest = alpha if len(ps) > _ALL else 1.0
    open_ones = np.flatnonzero((ps * _PINELIS >= alpha / max(len(ps), 1)) & (ps <= highest))
    chosen = open_ones[np.argsort(-ps[open_ones], kind="stable")][:_TESTED]
    exact = ps.copy()
    for pair in chosen:
        exact[pair] = sign_flip(_gaps(values[first[pair]], values[second[pair]]))
    return exact


def _gaps(a: Values, b: Values) -> Floats:
    if len(a) != len(b):
        raise UsageError(f"a paired difference needs the same documents, not {len(a)} and {len(b)}")
    if not len(a):
        raise UsageError("a paired difference needs at least one document")
    gaps = np.asarray(a, dtype=float) - np.asarray(b, dtype=float)
    if not np.isfinite(gaps).all():
        raise UsageError(f"document {int(np.argmin(np.isfinite(gaps)))} has no finite value")
    # 0.6 − 0.5 and 0.3 − 0.2 are the same difference, and 0.3 − (0.1 + 0.2) is 0.
    return np.round(gaps, 12)


def _steps(gaps: Floats) -> NDArray[np.int64]:
    """Differences as whole numbers of one step: exact for shares of up to 8, else rounded to the grid."""
    if not gaps.size:
        return np.zeros(0, dtype=np.int64)
    shares = gaps * _SHARES
    steps = np.rint(shares).astype(np.int64)
    if np.abs(shares - steps).max() < 1e-6:
        steps //= np.gcd.reduce(np.abs(steps))
        if np.abs(steps).sum() <= max(_GRID, 8 * gaps.size):
            return steps
    return np.rint(gaps * (_GRID / np.abs(gaps).sum())).astype(np.int64)


def _same_length(scores: Mapping[str, Values]) -> Floats:
    lengths = {name: len(values) for name, values in scores.items()}
    if len(set(lengths.values())) > 1:
        raise UsageError(f"ranks need the same documents for all; numbers of them: {lengths}")
    values = np.asarray(list(scores.values()), dtype=float)
    if not values.size or not np.isfinite(values).all():
        raise UsageError("ranks need at least one document and a finite value for each")
    return values


def _differing(values: Floats) -> NDArray[np.int64]:
    """The number of documents in which two names differ: values ``[names, n]`` to ``[names, names]``."""
    if ((values == 0) | (values == 1)).all():
        ones = values.sum(axis=1)
        return np.rint(ones[:, None] + ones - 2 * (values @ values.T)).astype(np.int64)
    return np.stack([(np.abs(values - row) > 1e-12).sum(axis=1) for row in values])
