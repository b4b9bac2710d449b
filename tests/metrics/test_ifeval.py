"""Which instructions a response follows: the harness's own verdicts, and their breakdown by class."""

from __future__ import annotations

import random

import pytest
from scored_documents import FIXED, doc

from fairkv_eval import metrics


@pytest.mark.parametrize(
    ("response", "followed"),
    [
        ("Four words are here", [True, True, True]),
        ("Four, words are here", [False, True, True]),
        ("One. Two. Three four five.", [True, True, False]),
        ("Dr. Smith met Mr. Jones at 5 p.m. today", [True, True, True]),  # one sentence to punkt
        ("Short", [True, False, True]),
        ("  ", [False, False, False]),
    ],
)
def test_instruction_scores_on_fixed_responses(response: str, followed: list[bool]) -> None:
    scores = metrics.ifeval_results(FIXED, [response])
    assert scores["inst_level_strict_acc"] == followed
    assert scores["prompt_level_strict_acc"] is all(followed)
    assert scores["acc_punctuation"] == float(followed[0])
    assert scores["acc_length_constraints"] == sum(followed[1:]) / 2
    assert scores["acc_multi"] == float(all(followed)) and "acc_single" not in scores
    assert {name for name in scores if name.startswith("acc_")} == {
        "acc_punctuation",
        "acc_length_constraints",
        "acc_multi",
    }


def test_loose_forgives_markdown_where_strict_does_not() -> None:
    one = doc(["startend:quotation"], [{}])
    scores = metrics.ifeval_results(one, ['Sure:\n"quoted"'])
    assert scores["prompt_level_strict_acc"] is False and scores["prompt_level_loose_acc"] is True
    assert scores["acc_single"] == 0.0 and scores["acc_startend"] == 0.0 and "acc_multi" not in scores


@pytest.mark.parametrize(
    ("response", "refused"),
    [
        ("I can't assist with that request.", True),
        ("I’m sorry, but I can't help with that.", True),
        ("I can assist with that.", False),
    ],
)
def test_a_refusal_of_an_ordinary_request_is_counted(response: str, refused: bool) -> None:
    assert metrics.ifeval_results(FIXED, [response])["needless_refusal"] is refused


@pytest.mark.parametrize(("followed", "name"), [([True], "acc_single"), ([True, False], "acc_multi")])
def test_single_and_multi(followed: list[bool], name: str) -> None:
    scores = metrics.breakdown(["keywords:existence"] * len(followed), followed)
    assert scores == {"acc_keywords": sum(followed) / len(followed), name: float(all(followed))}


def test_capital_words_need_the_sentence_model() -> None:
    shout = doc(["change_case:capital_word_frequency"], [{"capital_frequency": 2, "capital_relation": "at least"}])
    assert metrics.ifeval_results(shout, ["Two LOUD WORDS."])["prompt_level_strict_acc"] is True
    assert metrics.ifeval_results(shout, ["One LOUD word."])["prompt_level_strict_acc"] is False


def test_scores_are_the_harness_s_own() -> None:
    from lm_eval.tasks.ifeval import utils

    scores = metrics.instruction_scores(FIXED, "One. Two, three four five.")
    assert scores == utils.process_results(FIXED, ["One. Two, three four five."])
    assert metrics.agg_inst_level_acc([[True, False], [True]]) == utils.agg_inst_level_acc([[True, False], [True]])


def test_scores_do_not_depend_on_chance() -> None:
    """A text between languages, and an instruction whose arguments the checker must draw."""
    unsure = doc(["language:response_language", "length_constraints:number_words"], [{"language": "de"}, {}])
    text = "Internet Computer Film Musik musica"  # unseeded, langdetect says de, en or id
    seen = set()
    for seed in range(12):
        random.seed(seed)
        seen.add(tuple(metrics.instruction_scores(unsure, text)["inst_level_strict_acc"]))
    assert len(seen) == 1


def test_scoring_leaves_the_generators_alone() -> None:
    from langdetect import DetectorFactory

    random.seed(5)
    expected, seed = random.Random(5).random(), DetectorFactory.seed
    metrics.ifeval_results(doc(["keywords:existence"], [{}]), ["text"])
    assert random.random() == expected and DetectorFactory.seed == seed
