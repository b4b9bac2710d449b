"""A question of ours: is the directive followed more if more of it is kept?

Fair eviction changes how much of the directive a press keeps at a ratio, and how many prompts are followed. The slope
of the second over the first, fair − plain, is that of least squares over presses and ratios. It is a weighted mean of
the changes in following, document by document, so it is tested as every difference is. The shares, which hardly differ
between documents, count as known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from fairkv_eval.analysis.spearman import spearman
from fairkv_eval.bootstrap import Floats
from fairkv_eval.findings.cells import ModelCells
from fairkv_eval.findings.contrast import ALL, Contrast, of_documents
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import KEPT, Measure, following
from fairkv_eval.findings.twins import claim, differences, fair_pairs, measured_pairs

_DIRECTIVE = KEPT[1]
_FEWEST = 3  # pairs of policies: two always lie on a line
_LEAST_SPREAD = 0.05  # of the shares, largest − smallest: a slope over less is noise


def directive_share(model: ModelCells) -> Finding:
    claims = [
        claim(
            f"followed per share of the directive kept, fair − plain, {first} first",
            f"{task} under three presses or ratios, each with fair=1 and with fair=0",
            [row for of in following(model, flipped) for row in _rows(of)],
        )
        for first, task, flipped in (
            ("directive", "sys_ifeval_flipped", True),
            ("defense", "sys_ifeval_defended", False),
        )
    ]
    return Finding(
        "directive_share",
        "What fair eviction adds to the directive, it adds to following, and what it takes there, it takes",
        "",
        tuple(claims),
    )


def _rows(measure: Measure) -> Iterator[Contrast]:
    shares = Measure(measure.cells, _DIRECTIVE, 1)
    pairs = measured_pairs(shares, measured_pairs(measure, fair_pairs(measure.cells)))
    followed, kept = (
        [change for of_press in differences(of, pairs).values() for change in of_press] for of in (measure, shares)
    )
    if len(followed) < _FEWEST:
        return
    changes = np.stack(followed, axis=1)
    whole = ~np.isnan(changes).any(axis=1)
    if not whole.any():
        return
    means = np.asarray([np.nanmean(change[whole]) for change in kept])
    if not np.ptp(means) > _LEAST_SPREAD:
        return
    row = of_documents(
        slopes(changes[whole], means),
        *(ALL, measure.cells.task, measure.metric),
        cells=len(means),
        expected=1,
        points=False,
    )
    if row is not None:
        yield _described(row, means, changes[whole].mean(axis=0))


def slopes(changes: Floats, shares: Floats) -> Floats:
    """The slope of the changes ``[documents, pairs]`` over the shares ``[pairs]``, by document: their mean is that of
    least squares through the means."""
    centred = shares - shares.mean()
    by_document: Floats = changes @ (centred / (centred @ centred))
    return by_document


def _described(row: Contrast, shares: Floats, means: Floats) -> Contrast:
    (correlation,) = spearman(shares[None], means[None])
    words = f"{len(shares)} pairs of policies, directive kept {shares.min():+.2f} to {shares.max():+.2f}"
    return replace(row, detail=f"{words}, rank correlation {correlation:+.2f}")
