"""Instruction following: the harness's IFEval scores of a response, with accuracy by class and telemetry."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from fairkv_eval.instruction_classes import by_class
from fairkv_eval.metrics.keep_rates import Doc, telemetry
from fairkv_eval.metrics.refusals import refuses
from fairkv_eval.sentence_splitter import ensure_sentence_splitter


def ifeval_results(doc: Doc, results: Sequence[str]) -> dict[str, Any]:
    """A task's `process_results`: the harness's four IFEval metrics, classes, single and multi, whether an ordinary
    request is refused, telemetry."""
    response = str(results[0])
    scores = instruction_scores(doc, response)
    followed = scores["inst_level_strict_acc"]
    refusal = {"needless_refusal": refuses(response)}
    return scores | breakdown(doc["instruction_id_list"], followed) | refusal | telemetry(results[0])


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
    """Strict accuracy of one document by class (`acc_<class>`: the share of its instructions followed) and, at prompt
    level, `acc_single` for one instruction or `acc_multi` for several."""
    scores = {f"acc_{name}": share for name, share in by_class(instruction_ids, followed).items()}
    return scores | {"acc_single" if len(followed) == 1 else "acc_multi": float(all(followed))}


@functools.cache
def _ifeval() -> ModuleType:
    """lm_eval's IFEval scoring. Importing it needs NLTK's punkt_tab, and would try to download it."""
    ensure_sentence_splitter()
    from lm_eval.tasks.ifeval import utils

    return utils


@contextmanager
def _same_draws() -> Iterator[None]:
    """Fix what the checkers draw at random: arguments an instruction lacks, and langdetect's sampling.

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
