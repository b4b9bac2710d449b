"""Finding 7: StreamingLLM and SnapKV are the most biased presses, knorm the least.

A press's bias is |keep rate of the defense − keep rate of the directive|, both means over documents, averaged over its
ratios.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fairkv_eval.analysis.paired import sign_flip
from fairkv_eval.bootstrap import Floats, interval, p_value, resampled_means
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import ALL, Contrast
from fairkv_eval.findings.extremes import Extreme, ends, least
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import KEPT, tasks
from fairkv_eval.findings.ratios import by_ratio
from fairkv_eval.findings.twins import claim

RESAMPLES = 2000
MOST, LEAST, OTHERS = ("streaming_llm", "snapkv"), ("knorm",), ("h2o", "tova")  # the paper's presses

_METRIC = "|keep_rate_defense − keep_rate_directive|"


class Bias(NamedTuple):
    """One press's: the value, that of each resample, and by document (whose mean is the value)."""

    value: float
    resampled: Floats
    by_document: Floats


def bias(model: ModelCells) -> Finding:
    most: list[Contrast] = []
    fewest: list[Contrast] = []
    ranking: list[Contrast] = []
    for cells in tasks(model, flipped=False):
        biases = _biases(cells)
        most += _above(cells, biases, MOST, (*OTHERS, *LEAST))
        fewest += _above(cells, biases, (*MOST, *OTHERS), LEAST)
        ranking += _ranking(cells, biases)
    needs = "streaming_llm, snapkv, knorm and another press of the paper at the same ratios, on a defended task"
    return Finding(
        "bias",
        "StreamingLLM and SnapKV are the most biased presses, knorm the least",
        "at 0.6 StreamingLLM and SnapKV keep 60–80 % of the directive and 20–40 % of the defense; knorm is nearly "
        "unbiased",
        (
            claim("the lesser bias of StreamingLLM and SnapKV − the largest of the paper's others", needs, most),
            claim(
                "the least bias of the paper's others − knorm's (of each press: its bias)", needs, [*fewest, *ranking]
            ),
        ),
    )


def _biases(cells: TaskCells) -> dict[str, Bias]:
    """By press, at the ratios that most presses have."""
    defense, directive = (by_ratio(cells, metric) for metric in KEPT)
    gaps = {press: defense[press][1] - directive[press][1] for press in defense if press in directive}
    if not gaps:
        return {}
    whole = ~np.isnan(np.concatenate(list(gaps.values()), axis=1)).any(axis=1)
    return {press: of_gaps(of_press[whole]) for press, of_press in gaps.items()} if whole.any() else {}


def of_gaps(gaps: Floats) -> Bias:
    """The bias of keep rates, defense − directive, ``[documents, ratios]`` without NaN."""
    means = gaps.mean(axis=0)
    resampled = np.abs(resampled_means(gaps, RESAMPLES)).mean(axis=1)
    return Bias(float(np.abs(means).mean()), resampled, (gaps * np.sign(means)).mean(axis=1))


def _ranking(cells: TaskCells, biases: dict[str, Bias]) -> Iterator[Contrast]:
    """The presses, most biased first. p: of the bias by document, with the signs that its means have."""
    for press in sorted(biases, key=lambda name: -biases[name].value):
        of = biases[press]
        low, high = interval(of.resampled)
        yield _contrast(press, cells, Extreme(of.value, float(low), float(high), sign_flip(of.by_document)), of)


def _above(cells: TaskCells, biases: dict[str, Bias], upper: Sequence[str], lower: Sequence[str]) -> list[Contrast]:
    """The least difference of a press of the upper ones and one of the lower ones; [] without any lower one, or without
    both that the paper calls the most biased."""
    above, below = (list(_of_presses(cells, biases, names)) for names in (upper, lower))
    pairs = [(a, b) for a in above for b in below]
    if not pairs or not all(list(_of_presses(cells, biases, [name])) for name in MOST):
        return []
    gaps = np.stack([a.resampled - b.resampled for a, b in pairs], axis=1)
    low, high = ends(gaps, above=len(pairs))
    each = [
        Extreme(a.value - b.value, float(low[i]), float(high[i]), p_value(gaps[:, i])) for i, (a, b) in enumerate(pairs)
    ]
    smallest = least(each)
    first, second = pairs[smallest.place]
    closest = Bias(smallest.estimate, gaps[:, smallest.place], first.by_document - second.by_document)
    ranked = sorted(biases, key=lambda name: -biases[name].value)
    words = "bias: " + ", ".join(f"{name} {biases[name].value:.3f}" for name in ranked)
    return [_contrast(ALL, cells, smallest, closest, words)]


def _of_presses(cells: TaskCells, biases: dict[str, Bias], names: Iterable[str]) -> Iterator[Bias]:
    yield from (biases[label] for press, label in cells.presses.items() if press.press in names and label in biases)


def _contrast(group: str, cells: TaskCells, of: Extreme, by: Bias, detail: str = "") -> Contrast:
    n = len(by.by_document)
    differing = int((np.abs(by.by_document) > 1e-12).sum())
    variance = float(by.by_document.var(ddof=1)) if n > 1 else np.nan
    return Contrast(
        *(group, cells.task, _METRIC, 1, n, of.estimate, of.low, of.high, of.p, variance, differing),
        expected=1,
        detail=detail,
    )
