"""Values of presses over the same ratios, so that presses can be compared and averaged."""

from __future__ import annotations

from collections import Counter

import numpy as np

from fairkv_eval.bootstrap import Floats
from fairkv_eval.findings.cells import TaskCells

Ratios = tuple[float, ...]


def by_ratio(cells: TaskCells, metric: str) -> dict[str, tuple[Ratios, Floats]]:
    """{press: its ratios and values ``[documents, ratios]``} of the plain cells that have the metric.

    Only presses at the ratios that most of them have; of equally many the longest list.
    """
    by_press: dict[str, tuple[Ratios, Floats]] = {}
    for press, policies in cells.plain().items():
        columns = {ratio: cells.values(policy, metric) for ratio, policy in policies.items()}
        defined = {ratio: column for ratio, column in columns.items() if column is not None}
        if defined:
            by_press[press] = (tuple(defined), np.stack(list(defined.values()), axis=1))
    counts = Counter(ratios for ratios, _ in by_press.values())
    main = max(counts, key=lambda ratios: (counts[ratios], len(ratios)), default=())
    return {press: entry for press, entry in by_press.items() if entry[0] == main}
