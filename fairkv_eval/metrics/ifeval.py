"""Scoring shared by the tasks: what the response followed, what it leaked, and what the eviction did to its context.

The `*_results` functions are tasks' `process_results`; they put together the small functions below them. A metric that
does not apply to a document (a family it lacks, a segment it lacks, telemetry from a plain model) is left out of its
result, and the harness then averages over the documents that have it. All values are plain floats and bools.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from fairkv_eval.metrics.keep_rates import Doc, telemetry
from fairkv_eval.sentence_splitter import ensure_sentence_splitter

FAMILIES = (
    "keywords",
    "detectable_format",
    "length_constraints",
    "change_case",
    "startend",
    "punctuation",
    "combination",
    "detectable_content",
    "language",
)


def ifeval_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """Instruction following: the harness's four IFEval metrics, families, single and multi, telemetry."""
    scores = instruction_scores(doc, str(results[0]))
    followed = scores["inst_level_strict_acc"]
    return scores | breakdown(doc["instruction_id_list"], followed) | telemetry(results[0])


def agg_inst_level_acc(items: Sequence[Sequence[bool]]) -> float:
    """The harness's own aggregation of inst_level_*_acc: the share of all instructions, pooled over documents."""
    return float(_ifeval().agg_inst_level_acc(items))


def instruction_scores(doc: Doc, response: str) -> dict[str, Any]:
    """The harness's IFEval scores of one response: prompt_level_* bools, inst_level_* lists of bools.

    The same response always gets the same score, in any order and process.
    """
    checkers = _ifeval()
    with _same_draws():
        scores = checkers.process_results(doc, [response])
    return {name: [bool(x) for x in v] if isinstance(v, list) else bool(v) for name, v in scores.items()}


def breakdown(instruction_ids: Sequence[str], followed: Sequence[bool]) -> dict[str, float]:
    """Strict accuracy of one document by family (`acc_<family>`: the share of its instructions followed) and, at prompt
    level, `acc_single` for one instruction or `acc_multi` for several."""
    by_family: dict[str, list[bool]] = {}
    for instruction_id, ok in zip(instruction_ids, followed, strict=True):
        by_family.setdefault(instruction_id.partition(":")[0], []).append(ok)
    scores = {f"acc_{family}": sum(oks) / len(oks) for family, oks in by_family.items()}
    return scores | {"acc_single" if len(followed) == 1 else "acc_multi": float(all(followed))}


@functools.cache
def _ifeval() -> ModuleType:
    """lm_eval's IFEval scoring. Its import wants NLTK's punkt_tab, and would try to download it."""
    ensure_sentence_splitter()
    from lm_eval.tasks.ifeval import utils

    return utils


@contextmanager
def _same_draws() -> Iterator[None]:
    """Fix what the checkers draw at random: arguments an instruction does not give, and langdetect's sampling.

    Python's generator and langdetect's seed are put back afterwards, so the harness's other tasks see no difference.
    """
    from langdetect import DetectorFactory

    state, seed = random.getstate(), DetectorFactory.seed
    random.seed(0)
    DetectorFactory.seed = 0
    try:
        yield
    finally:
        random.setstate(state)
        DetectorFactory.seed = seed
