"""Scorers of a declared task: metrics of generated answers, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from fairkv_eval import metrics
from fairkv_eval.documents.words import check_words
from fairkv_eval.errors import UsageError
from fairkv_eval.metrics.instructions import check_instructions

Aggregation = Callable[[list[Any]], float]


@dataclass(frozen=True)
class Scorer:
    """score(doc, response) returns values of some metrics of ``higher``.

    higher: by metric, whether more is better; None means neither. headline: those that are printed. needs: the fields
    it reads of a document. source: the part of the YAML that these fields come from. verify: raises UsageError or
    DataError for a document that it cannot score.
    """

    score: Callable[[Mapping[str, Any], str], dict[str, Any]]
    higher: Mapping[str, bool | None]
    headline: tuple[str, ...]
    needs: tuple[str, ...] = ()
    source: str = "the rows"
    verify: Callable[[Mapping[str, Any]], None] = lambda doc: None

    def check(self, name: str, doc: Mapping[str, Any]) -> None:
        """Raise UsageError or DataError if a document lacks a field that the scorer reads, or cannot be scored."""
        if missing := [field for field in self.needs if field not in doc]:
            raise UsageError(f"the metric {name!r} needs {', '.join(missing)}, which come from {self.source}")
        self.verify(doc)


def _ifeval(doc: Mapping[str, Any], response: str) -> dict[str, Any]:
    scores = metrics.instruction_scores(doc, response)
    return scores | metrics.breakdown(doc["instruction_id_list"], scores["inst_level_strict_acc"])


_IFEVAL = [f"{level}_level_{kind}_acc" for level, kind in product(("prompt", "inst"), ("strict", "loose"))]
_IFEVAL += [f"acc_{name}" for name in (*metrics.FAMILIES, "single", "multi")]
_ROUGE = [f"rouge{kind}_{part}" for kind, part in product("1L", ("recall", "precision", "f1"))]
_LEAKAGE = [f"{score}_{text}" for score, text in product(_ROUGE, ("directive", "system", "defense"))]
_LEAKAGE += ["rougeL_recall_secret"]
_LEAKAGE += [f"leak@{threshold}{of}" for threshold, of in product(metrics.LEAK_THRESHOLDS, ("", "_defense"))]

SCORERS = {
    "ifeval": Scorer(
        _ifeval,
        dict.fromkeys(_IFEVAL, True),
        tuple(_IFEVAL[:4]),
        ("key", "prompt", "instruction_id_list", "kwargs"),
        verify=check_instructions,
    ),
    "leakage": Scorer(
        metrics.leakage,
        dict.fromkeys(_LEAKAGE, False),
        ("rougeL_recall_secret", *(f"leak@{threshold}" for threshold in metrics.LEAK_THRESHOLDS)),
        ("secret",),
        "secret:",
        check_words,
    ),
    "refusal": Scorer(lambda _, response: {"refusal": metrics.refuses(response)}, {"refusal": None}, ("refusal",)),
}
TELEMETRY = ("keep_rate", "kv_bytes_full", "kv_bytes_kept")


def aggregation(name: str) -> Aggregation:
    """How the harness aggregates a metric: pooled over instructions, or as the mean over documents."""
    from lm_eval.api.metrics import mean

    return metrics.agg_inst_level_acc if name.startswith("inst_level_") else mean
