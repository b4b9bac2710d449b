"""The documents that a claim takes, from the variances of pairs of policies."""

from __future__ import annotations

import math
from statistics import median

import numpy as np
from made_cells import FULL, model_cells, policy, task_cells

from fairkv_eval.findings.sample_sizes import sample_sizes
from fairkv_eval.findings.verdict import Goal, noncentrality


def test_median_and_most_by_hand():
    rng = np.random.default_rng(0)
    policies = [FULL, *(policy("tova", r, fair=f) for r in (0.3, 0.6, 0.9) for f in (0.0, 1.0))]
    values = {of: (rng.random(200) < 0.2 + of.ratio / 2).astype(float) for of in policies}
    cells = task_cells("raccoon_plain", {of: {"leak@0.3": v} for of, v in values.items()})
    full, fair = sample_sizes(model_cells(cells), Goal(0.05, 0.9))
    pairs = [values[policy("tova", r)] - values[FULL] for r in (0.3, 0.6, 0.9)]
    variances = [np.var(pair, ddof=1) for pair in pairs]
    needed = [math.ceil(noncentrality(1, 0.9) * variance / 0.05**2) for variance in variances]
    assert (full.comparison, full.pairs, full.median, full.most) == (
        *("plain − full cache", 3, median(needed), max(needed)),
    )
    assert math.isclose(full.deviation, math.sqrt(median(variances)))
    assert (fair.comparison, fair.pairs) == ("fair − plain", 3)
