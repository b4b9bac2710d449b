"""A question of ours: does the distance to the full cache say how much a policy loses?

KL divergence is cheap: only the full cache's answers are decoded. Policies are ranked by it and by what their own
answers do; the bootstrap draws the documents of both together.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fairkv_eval.analysis.spearman import spearman
from fairkv_eval.bootstrap import interval, p_value, resampled_means
from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.findings.contrast import ALL, Contrast
from fairkv_eval.findings.finding import Finding
from fairkv_eval.findings.measures import FOLLOWING, KL, REFUSED, tasks
from fairkv_eval.findings.twins import claim

RESAMPLES = 2000
_FEWEST = 5  # policies: a ranking of fewer says little


def fidelity_proxy(model: ModelCells) -> Finding:
    rows = [row for cells in tasks(model) if cells.has(KL) for row in _rows(cells)]
    needs = f"{_FEWEST} policies with fidelity on raccoon_plain, sys_ifeval_defended or sys_ifeval_flipped"
    return Finding(
        "fidelity_proxy",
        "The further from the full cache a policy is, the more it loses",
        "",
        (claim("rank correlation, over policies, of KL and refusals or prompts followed", needs, rows),),
    )


def _rows(cells: TaskCells) -> Iterator[Contrast]:
    for metric in (REFUSED, FOLLOWING[0]):
        policies = [
            policy for policy, table in cells.tables.items() if KL in table and metric in table and not policy.full
        ]
        if len(policies) >= _FEWEST:
            row = _correlation(
                cells, metric, [[cells.tables[policy][of] for policy in policies] for of in (KL, metric)]
            )
            yield from (row,) if row else ()


def _correlation(cells: TaskCells, metric: str, columns: list[list[np.ndarray]]) -> Contrast | None:
    """Of the means of both columns; None if one of them ranks nothing."""
    kl, outcome = (np.stack(of, axis=1) for of in columns)
    whole = ~np.isnan(np.concatenate([kl, outcome], axis=1)).any(axis=1)
    if whole.sum() < 2:
        return None
    kl, outcome = kl[whole], outcome[whole]
    (estimate,) = spearman(kl.mean(axis=0)[None], outcome.mean(axis=0)[None])
    resampled = spearman(*(resampled_means(of, RESAMPLES) for of in (kl, outcome)))
    resampled = resampled[~np.isnan(resampled)]
    if np.isnan(estimate) or not len(resampled):
        return None
    low, high = interval(resampled)
    n, policies = kl.shape
    return Contrast(
        *(ALL, cells.task, f"{KL}, {metric}", policies, n, float(estimate), float(low), float(high)),
        *(p_value(resampled), np.nan, n),
        expected=-1,
        points=False,
        detail=f"{policies} policies",
    )
