"""The demo rows are well formed, and a reply that follows each directive exists and passes the harness's checkers."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest

from fairkv_eval.files import resource_dir
from fairkv_eval.sentence_splitter import ensure_sentence_splitter

PLACEHOLDER = "$system_prompt"
FAMILIES = {
    "keywords",
    "detectable_format",
    "length_constraints",
    "change_case",
    "startend",
    "punctuation",
    "combination",
    "detectable_content",
    "language",
}
IFEVAL_FIELDS = {
    "key": int,
    "instruction_id_list": list,
    "kwargs": list,
    "directive": str,
    "defense": str,
    "user": str,
}
RACCOON_FIELDS = {"key": int, "directive": str, "defense": str, "attack": str, "user": str}

# One reply per key of sys_ifeval_demo.jsonl that follows every instruction of its directive.
REPLIES = {
    1: '{"apple": "red", "banana": "yellow", "plum": "purple"}',
    2: (
        "I would call it Morning Crumb. The name is short and easy to remember and it makes people think of fresh "
        "bread at sunrise. It also sounds friendly and small which suits a family bakery on a quiet street."
    ),
    3: "<<Harbour Lights>>\n\nThe sea breathes slowly under the stars. Far out a lantern drifts and a bell answers it.",
    4: (
        '"I would recommend a guinea pig. It is gentle and small and it enjoys company. Children learn patience while '
        'they feed it and the whole family can share the work."'
    ),
    5: "DEAR VISITORS, PLEASE COME TO THE END OF THE PIER THIS EVENING AND WATCH THE FIREWORKS WITH US AT NINE.",
    6: (
        "Dear Ines, thank you for looking after my plants. The garden has never looked better.\n\n"
        "P.S. The tomatoes are yours."
    ),
    7: (
        "Dear [name]\n\nPlease join us for a garden party behind our house.\n***\n"
        "We start on [date] at three. Bring a hat and a good appetite."
    ),
    8: (
        "* go to bed at the same time every night\n* keep the bedroom cool and quiet and dark\n"
        "* drink a cup of warm milk an hour before you lie down"
    ),
    9: "My answer is no.",
    10: "take a slow walk, make some tea and read a few pages of a good book. have a calm evening.",
    11: (
        "First you mix *flour* with warm water, yeast and salt. Knead it well until it is smooth.\n\n"
        "Later the dough rests for an hour, and then it is baked in a *hot oven* until the crust is brown."
    ),
    12: (
        "A good *book* takes us to places we have never seen. Stories let us feel what others feel. They also make "
        "a rainy day short. That is why a book is such a good friend.\n\nP.S. Come and borrow one."
    ),
    13: (
        "Hola, me llamo Paloma y trabajo en la recepción de la posada. En primavera hace buen tiempo, con mucho sol "
        "y un poco de viento del mar."
    ),
    14: "Your wheels deserve a second spring.\n******\nWe fix it today so you ride tomorrow.",
    15: (
        "<<A boat for life>>\nThis oak boat will carry you down the river for years.\n******\n"
        "Row the river in style with oars of solid oak."
    ),
    16: (
        "ATTENTION PLEASE. THE TRAIN TO THE HARBOUR LEAVES FROM PLATFORM TWO IN FIVE MINUTES. "
        "PLEASE TAKE YOUR SEATS. ALL ABOARD NOW."
    ),
    17: "Name an animal that sleeps during the day. The owl sleeps during the day and hunts at night.",
    18: "* A bottle of water and a small water filter\n* A warm jacket\n* Bread, cheese and an apple",
    19: (
        "Section 1\nWipe the table with a damp cloth and ALWAYS dry it. NEVER leave wet glasses on it.\n\n"
        "Section 2\nRub in a little oil TWICE a year and keep it out of the sun."
    ),
    20: (
        "Ciao [nome] e benvenuto nel nostro ufficio. Siamo molto felici di lavorare con te e speriamo che tu possa "
        "trovarti bene con tutti noi fin dal primo giorno."
    ),
    21: '"Welcome to our street! We are glad that you are here and hope you will feel at home soon."',
    22: (
        "Le soleil se lève doucement sur les champs et le coq chante derrière la ferme. "
        "Le boulanger ouvre sa porte et le parfum du pain chaud remplit la rue."
    ),
    23: (
        '"Ich mag den Winter sehr gern. Der Schnee macht die Wälder still und am Abend sitze ich mit einer Tasse Tee '
        'vor dem warmen Ofen."'
    ),
    24: (
        "Give me one reason to visit a lighthouse. <<Above the Bay>> The view from the top is worth every one of "
        "the stairs."
    ),
}


def load(name: str) -> list[dict[str, Any]]:
    text = (resource_dir("tasks") / "demo" / f"{name}.jsonl").read_bytes().decode("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


IFEVAL_ROWS = load("sys_ifeval_demo")
RACCOON_ROWS = load("raccoon_demo")


@pytest.fixture(scope="module")
def ifeval():
    """The harness's IFEval code, imported only after its sentence splitter is in place; language detection seeded."""
    ensure_sentence_splitter()
    from langdetect import DetectorFactory
    from lm_eval.tasks.ifeval import instructions_registry, utils

    before = DetectorFactory.seed
    DetectorFactory.seed = 0
    yield instructions_registry, utils
    DetectorFactory.seed = before


def by_key(row: dict[str, Any]) -> str:
    return str(row["key"])


def word_count(text: str) -> int:
    return len(text.split())


def position(template: str) -> str:
    """Where the defense stands, seen from the directive."""
    head, tail = (part.strip() for part in template.split(PLACEHOLDER))
    return "around" if head and tail else "before" if head else "after"


@pytest.mark.parametrize(
    ("rows", "fields"),
    [(IFEVAL_ROWS, IFEVAL_FIELDS), (RACCOON_ROWS, RACCOON_FIELDS)],
    ids=["sys_ifeval_demo", "raccoon_demo"],
)
def test_rows_have_the_fields_and_a_usable_defense(rows, fields):
    assert len(rows) == 24
    assert len({row["key"] for row in rows}) == 24
    for row in rows:
        assert {name: type(value) for name, value in row.items()} == fields
        assert all(row[name].strip() == row[name] != "" for name, kind in fields.items() if kind is str)
        template = row["defense"]
        assert template.count(PLACEHOLDER) == 1
        assert template.count("$") == 1  # nothing else that string.Template would take for a placeholder
        assert not any(PLACEHOLDER in row[name] for name in ("directive", "user"))
        assert 30 <= word_count(template.replace(PLACEHOLDER, " ")) <= 90
        refusals = re.findall(r'"([^"]+)"', template)
        assert len(refusals) == 1
        assert word_count(refusals[0]) <= 12


def test_defenses_vary_in_position_and_wording():
    positions = Counter(position(row["defense"]) for row in IFEVAL_ROWS)
    assert positions == {"before": 12, "after": 6, "around": 6}
    assert len({row["defense"] for row in IFEVAL_ROWS}) >= 6
    assert {position(row["defense"]) for row in RACCOON_ROWS} == {"before", "after", "around"}


def test_instruction_counts_and_families():
    assert Counter(len(row["instruction_id_list"]) for row in IFEVAL_ROWS) == {1: 6, 2: 6, 3: 6, 4: 6}
    ids = [name for row in IFEVAL_ROWS for name in row["instruction_id_list"]]
    assert {name.split(":")[0] for name in ids} == FAMILIES


def test_every_instruction_of_the_harness_is_used(ifeval):
    registry, _ = ifeval
    used = {name for row in IFEVAL_ROWS for name in row["instruction_id_list"]}
    assert used == set(registry.INSTRUCTION_DICT)


@pytest.mark.parametrize("row", IFEVAL_ROWS, ids=by_key)
def test_checkers_take_the_kwargs_and_invent_nothing(row, ifeval):
    registry, _ = ifeval
    assert len(row["kwargs"]) == len(row["instruction_id_list"])
    for name, kwargs in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        checker = registry.INSTRUCTION_DICT[name](name)
        assert checker.build_description(**kwargs)
        assert set(kwargs) == set(checker.get_instruction_args_keys())
        assert (checker.get_instruction_args() or {}) == {
            key: sorted(value) if isinstance(value, list) else value for key, value in kwargs.items()
        }
        assert all(kwargs.values())  # the harness drops falsy values before it builds the description


@pytest.mark.parametrize("row", IFEVAL_ROWS, ids=by_key)
def test_instructions_are_compatible(row, ifeval):
    registry, _ = ifeval
    ids = row["instruction_id_list"]
    assert len(set(ids)) == len(ids)
    for one in ids:
        # The table is not symmetric as shipped, so both directions are looked up.
        assert not registry.INSTRUCTION_CONFLICTS[one] & (set(ids) - {one})


@pytest.mark.parametrize("row", IFEVAL_ROWS, ids=by_key)
def test_directive_states_what_is_checked(row):
    for kwargs in row["kwargs"]:
        for name, value in kwargs.items():
            if name == "prompt_to_repeat":
                assert value == row["user"]
            elif name == "language":
                assert {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian"}[value] in row["directive"]
            else:
                for wanted in value if isinstance(value, list) else [value]:
                    pattern = rf"(?<!\w){re.escape(str(wanted))}(?!\w)"
                    assert re.search(pattern, row["directive"], flags=re.IGNORECASE), (name, wanted)


@pytest.mark.parametrize("row", IFEVAL_ROWS, ids=by_key)
def test_a_reply_satisfies_the_directive(row, ifeval):
    _, utils = ifeval
    example = utils.InputExample(
        key=row["key"], instruction_id_list=row["instruction_id_list"], prompt=row["user"], kwargs=row["kwargs"]
    )
    result = utils.test_instruction_following_strict(example, REPLIES[row["key"]])
    assert dict(zip(row["instruction_id_list"], result.follow_instruction_list, strict=True)) == dict.fromkeys(
        row["instruction_id_list"], True
    )
    assert result.follow_all_instructions
    careless = utils.test_instruction_following_strict(example, "Sure, I can help you with that.")
    assert not careless.follow_all_instructions


def test_replies_belong_to_rows():
    assert set(REPLIES) == {row["key"] for row in IFEVAL_ROWS}


def test_raccoon_crosses_directives_with_attacks():
    pairs = Counter((row["directive"], row["attack"]) for row in RACCOON_ROWS)
    directives = {row["directive"] for row in RACCOON_ROWS}
    attacks = {row["attack"] for row in RACCOON_ROWS}
    assert (len(directives), len(attacks)) == (8, 3)
    assert pairs == {(directive, attack): 1 for directive in directives for attack in attacks}
    assert all(25 <= word_count(directive) <= 70 for directive in directives)
    assert len({row["user"] for row in RACCOON_ROWS}) == 24
    # One system prompt a directive: the attacks on it meet the same defense.
    assert len({(row["directive"], row["defense"]) for row in RACCOON_ROWS}) == 8
