"""sys_multi's documents: balanced exactly, repeatable, satisfiable to the last one, and clear about wrong options."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from typing import Any

import pytest
import sys_multi_replies
from hypothesis import given, settings
from hypothesis import strategies as st

from fairkv_eval.documents import sys_multi
from fairkv_eval.documents.sys_multi import Design, documents, instructions, wording
from fairkv_eval.errors import UsageError
from fairkv_eval.instruction_classes import CLASSES, class_of
from fairkv_eval.metrics import instruction_scores
from fairkv_eval.prompts.segments import locate

CODE = (
    "import hashlib, json; from fairkv_eval.documents.sys_multi import Design, documents; "
    "print(hashlib.sha256(json.dumps(list(documents(Design(prompts=25)))).encode()).hexdigest())"
)


@cache
def made(**options: Any) -> list[dict[str, Any]]:
    """The documents of these options, which take a second to arrange."""
    return list(documents(Design(**options)))


def excluded() -> set[frozenset[str]]:
    """Pairs of the declared table, read on their own."""
    return {
        frozenset((one, other)) for rule in wording()["conflicts"] for one in rule["one"] for other in rule["other"]
    }


def test_every_instruction_of_the_harness_is_there() -> None:
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert set(instructions()) == set(INSTRUCTION_DICT) and len(instructions()) == 25
    assert {class_of(name) for name in instructions()} == set(CLASSES)


def test_default_is_300_documents_75_a_number() -> None:
    docs = made()
    assert Counter(doc["n"] for doc in docs) == {1: 75, 2: 75, 4: 75, 8: 75}
    assert [doc["n"] for doc in docs[:8]] == [1, 2, 4, 8] * 2
    assert [doc["key"] for doc in docs] == list(range(300))


@settings(max_examples=3)
@given(seed=st.integers(), blocks=st.integers(1, 3))
def test_every_instruction_stands_equally_often_at_every_position(seed: int, blocks: int) -> None:
    docs = list(documents(Design(seed=seed, prompts=25 * blocks)))
    counts = Counter(
        (doc["n"], place, name) for doc in docs for place, name in enumerate(doc["instruction_id_list"], 1)
    )
    assert counts == {
        (n, place, name): blocks for n in (1, 2, 4, 8) for place in range(1, n + 1) for name in instructions()
    }
    for doc in docs:
        ids = doc["instruction_id_list"]
        assert len(set(ids)) == len(ids) == doc["n"]
        assert not any(frozenset((a, b)) in excluded() for a in ids for b in ids)


SECRET = {"secret": "last", "defense": "first", "ask": True, "filler": 256}


@pytest.mark.parametrize(
    "options",
    [
        {"prompts": 25, **SECRET},
        *(
            pytest.param(options, marks=pytest.mark.long)
            for options in ({}, SECRET, {"seed": 1}, {"seed": 2, **SECRET})
        ),
    ],
)
def test_every_document_can_be_satisfied(options: dict[str, Any]) -> None:
    for doc in documents(Design(**options)):
        followed = [instruction_scores(doc, reply)["inst_level_strict_acc"] for reply in _until_followed(doc)]
        assert all(followed[-1]), (doc["instruction_id_list"], followed[-1], next(sys_multi_replies.replies(doc)))


def _until_followed(doc: dict[str, Any]) -> list[str]:
    tried = []
    for reply in sys_multi_replies.replies(doc):
        tried.append(reply)
        if instruction_scores(doc, reply)["prompt_level_strict_acc"]:
            break
    return tried


def test_documents_are_the_same_in_every_process() -> None:
    here = hashlib.sha256(json.dumps(made(prompts=25)).encode()).hexdigest()
    for seed in ("0", "12345"):
        there = subprocess.run(
            [sys.executable, "-c", CODE],
            env={**os.environ, "PYTHONHASHSEED": seed, "FAIRKV_AUTOLOAD": "0"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert there.stdout.strip() == here


def test_another_seed_gives_other_documents() -> None:
    first, second = made(), made(seed=1)
    assert sum(a["system"] == b["system"] for a, b in zip(first, second, strict=True)) < 10


def test_one_number_alone_is_the_same_part_of_the_whole() -> None:
    def texts(docs: Any) -> list[str]:
        return [doc["system"] + doc["user"] for doc in docs if doc["n"] == 4]

    assert texts(made(n=(4,))) == texts(made())
    assert all(doc["positions"] == (doc["n"] == 8) for doc in made())
    assert all(doc["positions"] for doc in made(n=(4,)))


def test_an_option_changes_only_what_it_adds() -> None:
    extended = made(secret="first", defense="last", filler=256, filler_order="last")
    for one, other in zip(made(), extended, strict=True):
        assert one["user"] == other["user"] and one["kwargs"] == other["kwargs"]
        assert [s for s in other["segments"] if s["name"] not in {"secret", "defense", "filler"}] == one["segments"]


@pytest.mark.parametrize("secret", ["first", "last"])
@pytest.mark.parametrize("defense", ["first", "last", None])
def test_secret_and_defense_stand_where_they_should(secret: str, defense: str | None) -> None:
    doc = next(documents(Design(n=(2,), prompts=25, secret=secret, defense=defense, ask=True)))
    names = [segment["name"] for segment in doc["segments"]]
    before = (["defense"] if defense == "first" else []) + (["secret"] if secret == "first" else [])
    after = (["defense"] if defense == "last" else []) + (["secret"] if secret == "last" else [])
    assert names == [*before, "opening", "instruction_1", "instruction_2", *after]
    assert doc["code"] and doc["code"] in doc["secret"] and doc["code"] not in doc["user"] + doc["defense"]
    assert any(doc["user"].endswith(question) for question in wording()["questions"])


@pytest.mark.parametrize("options", [{}, {"filler": 1024, "filler_order": "last", "secret": "first"}])
def test_segments_cover_the_system_prompt(options: dict[str, Any]) -> None:
    for doc in made(**options):
        found = list(locate(doc["system"], [(s["name"], s["text"]) for s in doc["segments"]]))
        assert "\n".join(doc["system"][s.start : s.stop] for s in found) == doc["system"]


@pytest.mark.parametrize("length", [256, 1024, 4096])
def test_filler_reaches_its_length(length: int) -> None:
    for doc in documents(Design(filler=length, prompts=25)):
        assert length - 25 <= sys_multi.tokens(doc["system"]) <= length + 2


def test_texts_do_not_get_in_each_others_way() -> None:
    """No comma in what has to be copied, no forbidden word in what has to be said, no keyword given away."""
    table = wording()["instructions"]
    forbidden = {w for kwargs in table["keywords:forbidden_words"]["kwargs"] for w in kwargs["forbidden_words"]}
    said = [k["end_phrase"] for k in table["startend:end_checker"]["kwargs"]]
    copied = [*wording()["requests"], *wording()["questions"], *said]
    assert not any("," in text for text in copied)
    assert not forbidden & {word.strip(".?!").lower() for text in copied for word in text.split()}
    assert len(set(wording()["requests"])) == 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"n": 3}, "unknown n 3.*Allowed: 1, 2, 4, 8"),
        ({"n": "8"}, "unknown n '8'"),
        ({"n": []}, "takes different numbers"),
        ({"n": [2, 2]}, "takes different numbers"),
        ({"prompts": 0}, "prompts=0 is not allowed; it takes a multiple of 25"),
        ({"prompts": 64}, "prompts=64"),
        ({"prompts": -25}, "prompts=-25"),
        ({"seed": "x"}, "seed='x'"),
        ({"filler": -1}, "filler=-1 is not allowed"),
        ({"filler": "1k"}, "filler='1k'"),
        ({"secret": "frist"}, "unknown secret 'frist'. Did you mean 'first'"),
        ({"defense": "standard_defense"}, "unknown defense 'standard_defense'"),
        ({"filler_order": "middle"}, "unknown filler_order 'middle'"),
        ({"ask": True}, "true needs a secret"),
        ({"ask": "yes", "secret": "first"}, "ask='yes'"),
    ],
)
def test_wrong_options_are_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sys_multi.sys_multi(**given)


def test_the_harness_passes_on_what_is_not_ours() -> None:
    built = sys_multi.sys_multi(n=1, prompts=25, press="tova", ratio=0.5, version=1.0)["test"]
    assert len(built) == 25
