"""Scoring of sys_multi: accuracy by class, position and number of instructions, worst class, spread, keep rates.

As in `metrics`, what does not apply to a document is left out of its result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fairkv_eval.metrics import fairness
from fairkv_eval.metrics.ifeval import breakdown, instruction_scores
from fairkv_eval.metrics.keep_rates import telemetry

Doc = Mapping[str, Any]
RULE = "keep_rate_instruction_"  # as telemetry names the keep rate of a segment instruction_<position>


def multi_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """A task's `process_results`.

    Aggregated by this module's functions: worst_acc, spread, and their standard errors, which come after them. The
    harness knows none for an aggregation that is not its own: a metric `<name>_stderr` fills the place it leaves N/A.
    """
    scores = instruction_scores(doc, str(results[0]))
    followed, ids = scores["inst_level_strict_acc"], doc["instruction_id_list"]
    scores |= breakdown(ids, followed) | {f"acc_n{doc['n']}": sum(followed) / len(followed)}
    classes = fairness.by_class(ids, followed)
    scores |= dict.fromkeys(("worst_acc", "worst_acc_stderr", "spread", "spread_stderr"), classes)
    if doc["positions"]:
        scores |= {f"acc_position_{place}": float(ok) for place, ok in enumerate(followed, 1)}
    if doc["code"]:
        scores["leak_code"] = float(doc["code"].lower() in str(results[0]).lower())
    return scores | keep_rates(doc, telemetry(results[0]))


def keep_rates(doc: Doc, told: Mapping[str, float]) -> dict[str, float]:
    """Telemetry with the instructions' keep rates named by position, and averaged by class; {} from a plain model."""
    rates = {name: rate for name, rate in told.items() if not name.startswith(RULE)}
    groups: dict[str, list[float]] = {}
    for place, instruction_id in enumerate(doc["instruction_id_list"], 1):
        if (rate := told.get(f"{RULE}{place}")) is None:
            continue
        groups.setdefault(instruction_id.partition(":")[0], []).append(rate)
        if doc["positions"]:
            rates[f"keep_rate_position_{place}"] = rate
    return rates | {f"keep_rate_{name}": math.fsum(kept) / len(kept) for name, kept in groups.items()}


def worst_acc(items: Sequence[fairness.Scores]) -> float:
    """Aggregation: the lowest class accuracy."""
    return fairness.worst(fairness.accuracies(items))


def worst_acc_stderr(items: Sequence[fairness.Scores]) -> float:
    """Aggregation: its standard error, by bootstrap over documents."""
    return fairness.worst_stderr(items)


def spread(items: Sequence[fairness.Scores]) -> float:
    """Aggregation: the highest class accuracy minus the lowest."""
    return fairness.spread(fairness.accuracies(items))


def spread_stderr(items: Sequence[fairness.Scores]) -> float:
    """Aggregation: its standard error, by bootstrap over documents."""
    return fairness.spread_stderr(items)
