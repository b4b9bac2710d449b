"""Scoring of sys_multi: accuracy by class, position and number of instructions, worst class, spread, keep rates.

As in `metrics`, what does not apply to a document is left out of its result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairkv_eval.instruction_classes import by_class
from fairkv_eval.metrics.ifeval import breakdown, instruction_scores
from fairkv_eval.metrics.keep_rates import Doc, telemetry

RULE = "keep_rate_instruction_"  # what telemetry calls the keep rate of a segment instruction_<position>


def multi_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """A task's `process_results`.

    `fairness` aggregates worst_acc, spread, and their standard errors, which come after them: the harness knows no
    standard error of a foreign aggregation, and a metric `<name>_stderr` fills the place it leaves N/A.
    """
    scores = instruction_scores(doc, str(results[0]))
    followed, ids = scores["inst_level_strict_acc"], doc["instruction_id_list"]
    scores |= breakdown(ids, followed) | {f"acc_n{doc['n']}": sum(followed) / len(followed)}
    classes = by_class(ids, followed)
    scores |= dict.fromkeys(("worst_acc", "worst_acc_stderr", "spread", "spread_stderr"), classes)
    if doc["positions"]:
        scores |= {f"acc_position_{place}": float(ok) for place, ok in enumerate(followed, 1)}
    if doc["code"]:
        scores["leak_code"] = float(doc["code"].lower() in str(results[0]).lower())
    return scores | keep_rates(doc, telemetry(results[0]))


def keep_rates(doc: Doc, rates: Mapping[str, float]) -> dict[str, float]:
    """Telemetry with the instructions' keep rates named by position, and averaged by class; {} from a plain model."""
    others = {name: rate for name, rate in rates.items() if not name.startswith(RULE)}
    by_place = {
        place: (instruction_id, rates[f"{RULE}{place}"])
        for place, instruction_id in enumerate(doc["instruction_id_list"], 1)
        if f"{RULE}{place}" in rates
    }
    if doc["positions"]:
        others |= {f"keep_rate_position_{place}": rate for place, (_, rate) in by_place.items()}
    means = by_class(*zip(*by_place.values(), strict=True)) if by_place else {}
    return others | {f"keep_rate_{name}": mean for name, mean in means.items()}
