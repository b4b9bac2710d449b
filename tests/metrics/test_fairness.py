"""Class accuracies, worst class, spread and their errors against plain loops; sys_multi's scores in the harness."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from package_tasks import manager

from fairkv_eval.harness.response import Response
from fairkv_eval.metrics import FAMILIES, fairness, sys_multi

Docs = Sequence[dict[str, float]]
DOCS: Docs = [{"a": 1.0, "b": 0.5}, {"a": 0.0}, {"b": 1.0, "c": 0.0}, {"a": 1.0, "c": 0.5}, {"b": 0.0}]
REFERENCE: Docs = [{"a": 1.0, "b": 1.0}, {"a": 1.0}, {"b": 1.0, "c": 0.5}, {"a": 0.5, "c": 1.0}, {"b": 0.5}]
scored = st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.0, 0.5, 1.0]), min_size=1), min_size=1)


def slow_accuracies(docs: Docs) -> dict[str, float]:
    names = {name for doc in docs for name in doc}
    return {name: statistics.fmean(doc[name] for doc in docs if name in doc) for name in names}


def slow_spread(scores: dict[str, float]) -> float:
    return max(abs(a - b) for a in scores.values() for b in scores.values())


def slow_relative(scores: dict[str, float], reference: dict[str, float]) -> float:
    shares = {name: scores[name] / reference[name] for name in scores if reference.get(name)}
    return slow_spread(shares) if len(shares) > 1 else math.nan


def slow_error(statistic: Callable[[list[int]], float], count: int) -> float:
    rng = random.Random(1)
    drawn = (statistic([rng.randrange(count) for _ in range(count)]) for _ in range(4000))
    return statistics.stdev(value for value in drawn if not math.isnan(value))


@given(docs=scored)
def test_accuracies_worst_and_spread(docs: Docs) -> None:
    expected = slow_accuracies(docs)
    assert fairness.accuracies(docs) == pytest.approx(expected)
    assert fairness.worst_acc(docs) == pytest.approx(sorted(expected.values())[0])
    assert fairness.spread(docs) == pytest.approx(slow_spread(expected))


@given(docs=scored, full=scored)
def test_relative_spread(docs: Docs, full: Docs) -> None:
    scores, reference = fairness.accuracies(docs), fairness.accuracies(full)
    expected = slow_relative(slow_accuracies(docs), slow_accuracies(full))
    assert fairness.relative_spread(scores, reference) == pytest.approx(expected, nan_ok=True)


def test_a_run_is_even_with_itself() -> None:
    scores = fairness.accuracies(DOCS)
    assert fairness.relative_spread(scores, scores) == 0.0
    assert fairness.relative_spread_stderr(DOCS, DOCS) == 0.0


def test_relative_leaves_out_what_the_full_cache_does_not_follow() -> None:
    assert fairness.relative({"a": 0.5, "b": 0.2, "c": 0.1}, {"a": 1.0, "b": 0.0}) == {"a": 0.5}
    assert math.isnan(fairness.relative_spread({"a": 0.5, "b": 0.2}, {"a": 1.0, "b": 0.0}))


def test_standard_errors_are_those_of_a_slow_bootstrap() -> None:
    docs, full = list(DOCS) * 4, list(REFERENCE) * 4
    count = len(docs)

    def drawn(rows: Docs, places: list[int]) -> dict[str, float]:
        return slow_accuracies([rows[place] for place in places])

    worst = slow_error(lambda places: min(drawn(docs, places).values()), count)
    spread = slow_error(lambda places: slow_spread(drawn(docs, places)), count)
    paired = slow_error(lambda places: slow_relative(drawn(docs, places), drawn(full, places)), count)
    assert fairness.worst_acc_stderr(docs) == pytest.approx(worst, rel=0.1)
    assert fairness.spread_stderr(docs) == pytest.approx(spread, rel=0.1)
    assert fairness.relative_spread_stderr(docs, full) == pytest.approx(paired, rel=0.1)


def test_errors_need_two_documents_and_the_same_ones() -> None:
    assert math.isnan(fairness.worst_acc_stderr(DOCS[:1])) and math.isnan(fairness.spread_stderr([DOCS[0]]))
    with pytest.raises(ValueError, match="same documents, got 5 and 4"):
        fairness.relative_spread_stderr(DOCS, REFERENCE[:4])


def test_tables_from_samples() -> None:
    samples = [
        {"doc_id": 1, "doc": {"instruction_id_list": ["a:x", "a:y"]}, "inst_level_strict_acc": [True, False]},
        {"doc_id": 0, "doc": {"instruction_id_list": ["b:x", "a:y"]}, "inst_level_strict_acc": [False, False]},
        {"doc_id": 2, "doc": {"instruction_id_list": ["b:x"]}, "inst_level_strict_acc": [True]},
    ]
    assert fairness.of_samples(samples) == [{"b": 0.0, "a": 0.0}, {"a": 0.5}, {"b": 1.0}]
    assert fairness.by_position(samples) == {(1, 1): 1.0, (2, 1): 0.5, (2, 2): 0.0}


DOC: dict[str, Any] = {
    "key": 0,
    "prompt": "p",
    "instruction_id_list": ["punctuation:no_comma", "keywords:existence", "keywords:forbidden_words"],
    "kwargs": [{}, {"keywords": ["garden"]}, {"forbidden_words": ["very"]}],
    "n": 4,
    "positions": True,
    "code": "Copper-1",
}


def test_scores_of_one_response() -> None:
    telemetry = {"segments": {"opening": 0.5, "instruction_1": 0.1, "instruction_2": 0.2, "instruction_3": 0.6}}
    response = Response("A garden, copper-1.", {"keep_rate": 0.4, "kv_bytes_full": 8, "kv_bytes_kept": 4, **telemetry})
    scores = sys_multi.multi_results(DOC, [response])
    assert scores["inst_level_strict_acc"] == [False, True, True]
    assert scores["acc_punctuation"] == 0.0 and scores["acc_keywords"] == 1.0 and scores["acc_multi"] == 0.0
    assert scores["acc_n4"] == pytest.approx(2 / 3) and scores["leak_code"] == 1.0
    assert [scores[f"acc_position_{k}"] for k in (1, 2, 3)] == [0.0, 1.0, 1.0]
    assert scores["worst_acc"] == scores["spread_stderr"] == {"punctuation": 0.0, "keywords": 1.0}
    assert scores["keep_rate_position_2"] == 0.2 and scores["keep_rate_keywords"] == pytest.approx(0.4)
    assert scores["keep_rate_opening"] == 0.5 and "keep_rate_instruction_1" not in scores


def test_positions_and_codes_only_where_they_count() -> None:
    scores = sys_multi.multi_results({**DOC, "positions": False, "code": ""}, ["A garden."])
    assert not any(name.startswith(("acc_position", "keep_rate", "leak")) for name in scores)


def test_the_harness_reports_the_errors_in_their_place() -> None:
    """`worst_acc_stderr` is a metric that fills the place the harness leaves at N/A, so its order is what matters."""
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.utils import handle_non_serializable, make_table

    class Says(LM):
        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            return ["A garden by the window." if r.doc["key"] % 3 else "No, very." for r in requests]

        def loglikelihood(self, requests: Any) -> Any: ...

        def loglikelihood_rolling(self, requests: Any) -> Any: ...

    results = simple_evaluate(Says(), tasks=["sys_multi"], task_manager=manager(prompts=25), bootstrap_iters=10)
    again = json.loads(json.dumps(results, default=handle_non_serializable))
    scores = again["results"]["sys_multi"]
    classes = {name: scores[f"acc_{name},none"] for name in FAMILIES}
    assert scores["worst_acc,none"] == pytest.approx(min(classes.values()))
    assert scores["spread,none"] == pytest.approx(max(classes.values()) - min(classes.values()))
    docs = fairness.of_samples(again["samples"]["sys_multi"])
    assert scores["spread_stderr,none"] == pytest.approx(fairness.spread_stderr(docs))
    assert scores["worst_acc_stderr,none"] == pytest.approx(fairness.worst_acc_stderr(docs))
    row = next(line for line in make_table(results).splitlines() if "|spread " in line)
    assert f"{scores['spread_stderr,none']:.4f}" in row
    assert scores["acc_n1,none"] == pytest.approx(
        statistics.fmean(sum(s["inst_level_strict_acc"]) for s in again["samples"]["sys_multi"] if s["doc"]["n"] == 1)
    )
