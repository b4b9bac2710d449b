"""Finding 3: leakage peaks at middle ratios, because the defense goes first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fairkv_eval.analysis import paired
from fairkv_eval.bootstrap import Floats, resampled_means
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import ALL, Contrast, averaged
from fairkv_eval.findings.extremes import Extreme, ends, greatest, least
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import KEPT, Measure, leakage
from fairkv_eval.findings.ratios import by_ratio
from fairkv_eval.findings.twins import claim, contrasts

RESAMPLES = 2000

_NEEDS = "raccoon_plain or raccoon_preference with the full cache and a plain press at two ratios or more"


class Curve(NamedTuple):
    """Values ``[documents, ratios]`` over ascending ratios, of which the first is the full cache's."""

    ratios: tuple[float, ...]
    values: Floats


def peak(model: ModelCells) -> Finding:
    leaks = [row for measure in leakage(model) for row in _rows(measure)]
    kept = [row for cells in _tasks(model) for row in _kept(cells)]
    return Finding(
        "peak",
        "Leakage peaks at middle ratios, because the defense goes first",
        "leakage is highest at middle ratios, and falls when the directive goes too",
        (
            claim("leakage at the best middle ratio − at the higher of both ends", _NEEDS, leaks),
            claim("directive kept − defense kept, at middle ratios", _NEEDS, kept),
        ),
    )


def _tasks(model: ModelCells) -> list[TaskCells]:
    return list({measure.cells.task: measure.cells for measure in leakage(model)}.values())


def _rows(measure: Measure) -> Iterator[Contrast]:
    cells = measure.cells
    curves = {}
    for press, (ratios, values) in by_ratio(cells, measure.metric).items():
        start = cells.values(cells.full, measure.metric) if cells.full else None
        if start is not None and len(ratios) > 1:
            leaked = np.concatenate([start[:, None], values], axis=1)
            if not np.isnan(leaked).any(axis=1).all():
                curves[press] = Curve((0.0, *ratios), leaked if measure.better < 0 else 1 - leaked)
    if not curves:
        return
    every = Curve(next(iter(curves.values())).ratios, averaged([curve.values for curve in curves.values()]))
    label = measure.metric if measure.better < 0 else f"1 − {measure.metric}"
    count = len(every.ratios) - 1
    yield peak_contrast(every, ALL, cells.task, label, count * len(curves))
    for press, curve in curves.items():
        yield peak_contrast(curve, press, cells.task, label, count)


def peak_contrast(curve: Curve, group: str, task: str, metric: str, cells: int) -> Contrast:
    """The greatest over the middle ratios of the lesser of "leakage there − at 0" and "− at the largest ratio".

    Documents with NaN are left out.

    p: corrected for the number of middle ratios. The interval holds at all of them together.
    """
    values = curve.values[~np.isnan(curve.values).any(axis=1)]
    middle = range(1, len(curve.ratios) - 1)
    gaps = [[values[:, m] - values[:, end] for end in (0, -1)] for m in middle]
    flat = [gap for pair in gaps for gap in pair]
    resampled = resampled_means(np.stack(flat, axis=1), RESAMPLES)
    low, high = ends(resampled, below=len(middle), above=2)
    tests = paired.differences([(gap, np.zeros(len(gap))) for gap in flat])
    each = [Extreme(t.mean, float(a), float(b), t.p) for t, a, b in zip(tests, low, high, strict=True)]
    lesser = [least(each[i : i + 2]) for i in range(0, len(each), 2)]
    best = greatest(lesser)
    limiting = gaps[best.place][lesser[best.place].place]
    return Contrast(
        *(group, task, metric, cells, len(values), best.estimate, best.low, best.high, best.p),
        variance=float(limiting.var(ddof=1)) if len(values) > 1 else np.nan,
        differing=int((np.abs(limiting) > 1e-12).sum()),
        expected=1,
        detail=_curve_in_words(curve.ratios, values.mean(axis=0), curve.ratios[middle[best.place]]),
    )


def _curve_in_words(ratios: Sequence[float], means: Floats, at: float) -> str:
    by_ratio = ", ".join(f"{ratio:g}: {mean:.3f}" for ratio, mean in zip(ratios, means, strict=True))
    return f"best middle ratio {at:g}; by ratio {by_ratio}"


def _kept(cells: TaskCells) -> list[Contrast]:
    defense, directive = (by_ratio(cells, metric) for metric in KEPT)
    gaps: Mapping[str, list[Floats]] = {
        press: [kept[:, m] - defense[press][1][:, m] for m in range(len(ratios) - 1)]
        for press, (ratios, kept) in directive.items()
        if press in defense and len(ratios) > 1
    }
    return contrasts(Measure(cells, "keep_rate_directive − keep_rate_defense", 1), gaps, 1)
