"""Stand-ins for data sets of the harness: a few rows of our own with the same columns, and no hub."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import datasets
import lm_eval.tasks
import pytest

FOLDER = Path(lm_eval.tasks.__file__).parent

SUMS = [
    {"question": f"Ann has {n} pears and buys {n + 1}.  How many?", "answer": f"#### {2 * n + 1}"} for n in range(6)
]
ENDINGS = ["sings [title] a song.", "falls asleep.", "eats the ladder.", "swims away."]
FACTS = [("Which metal is liquid?", ["iron", "mercury", "gold", "tin"], 1), ("What barks?", ["dog", "cat"], 0)]
PASSAGE = "The old mill stands by the river.  It was built by two brothers.\n\nLater a storm took its roof."
PAGE = ' = Mill = \n\n The mill , built in 1 @,@ 802 , stands by the " river " . \n'

# Rows by the data set's path; every split gets all of them.
ROWS: dict[str, list[dict[str, Any]]] = {
    "openai/gsm8k": SUMS,
    "Rowan/hellaswag": [
        {"ind": 0, "activity_label": "Climbing", "ctx_a": "A man climbs a ladder.", "ctx_b": "then he", "label": "1"}
        | {"endings": ENDINGS},
        {
            "ind": 1,
            "activity_label": "Rowing",
            "ctx_a": "Two women row.",
            "ctx_b": "",
            "label": "3",
            "endings": ENDINGS,
        },
    ],
    "allenai/ai2_arc": [
        {"id": q, "question": q, "choices": {"text": c, "label": list("ABCD")[: len(c)]}, "answerKey": "ABCD"[a]}
        for q, c, a in FACTS
    ],
    "baber/piqa": [{"goal": "To dry a shirt,", "sol1": "hang it up.", "sol2": "bury it.", "label": 0}],
    "EleutherAI/lambada_openai": [{"text": "She opened the door and called the dog"}, {"text": " oddly spaced  words"}],
    "EleutherAI/wikitext_document_level": [{"page": PAGE}, {"page": PAGE * 3}],
    "aps/super_glue": [{"passage": PASSAGE, "question": "was the mill built", "idx": 0, "label": 1}],
    "allenai/winogrande": [
        {"sentence": "The cup fell off the shelf since the _ was tilted.", "option1": "cup", "option2": "shelf"}
        | {"answer": "2"},
        {"sentence": "_ lost the game, so Ann cheered.", "option1": "Eve", "option2": "Ann", "answer": "1"},
    ],
    "mandarjoshi/trivia_qa": [{"question": "Who built the mill", "answer": {"aliases": ["two brothers", "brothers"]}}]
    * 6,
    "google/IFEval": [
        {"key": 1, "prompt": "Name three trees. Use no commas.", "instruction_id_list": ["punctuation:no_comma"]}
        | {"kwargs": [{}]}
    ],
    "cais/mmlu": [{"question": f" Which is {w}?", "choices": ["a", "b", "c", "d"], "answer": 2} for w in "uvwxyz"],
    "truthfulqa/truthful_qa": [
        {"question": "Do fish fly?", "mc1_targets": {"choices": ["Some glide.", "Yes, all."], "labels": [1, 0]}}
    ],
    "hazyresearch/based-squad": [{"text": PASSAGE + " The storm took its ", "value": "roof"}],
    "Xnhyacinth/LongBench": [
        {"input": "Who built it?", "context": PASSAGE * 3, "answers": ["two brothers"], "question": "Who built it?"}
        | {"all_classes": [], "length": 60, "dataset": "qasper", "language": "en", "_id": "0"}
    ],
    "baber/paul_graham_essays": [
        {"text": " ".join(f"On day {day} the miller went to the river and counted {day} boats." for day in range(4))}
    ],
    "RMT-team/babilong-1k-samples": [
        {"input": f"{PASSAGE} Ann went to the garden. ", "question": "Where is Ann? ", "target": "garden"}
    ],
}


def use(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on ``datasets.load_dataset`` gives the stand-in of the path, and fails for any other."""

    def load(path: str, name: str | None = None, split: str | None = None, **_: Any) -> Any:
        # Few-shot examples are drawn from the rows that differ from the document.
        rows = [{"row": i, **ROWS[path][i % len(ROWS[path])]} for i in range(4)]
        data = datasets.Dataset.from_list(rows)
        names = ("train", "validation", "test", "dev", "qa1")
        return data if split else datasets.DatasetDict(dict.fromkeys(names, data))

    monkeypatch.setattr(datasets, "load_dataset", load)


def task(path: str, **metadata: Any) -> Any:
    """The harness's own task of this YAML, a path in its folder without the suffix."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False, metadata=metadata)
    (loaded,) = manager.load([str(FOLDER / f"{path}.yaml")])["tasks"].values()
    return loaded


def words(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on RULER draws from a few words of ours; with the package's it takes half a minute to import."""

    class Few:
        _categories: ClassVar = {
            **{key: [f"word{i}" for i in range(30)] for key in ("nouns", "adjectives", "verbs")},
            **{key: [f"word{i}" for i in range(400)] for key in ("noun", "adjective", "verb")},
        }

    try:
        import wonderwords
    except ImportError:
        wonderwords = types.ModuleType("wonderwords")
        monkeypatch.setitem(sys.modules, "wonderwords", wonderwords)
    monkeypatch.setattr(wonderwords, "RandomWord", Few, raising=False)


def scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    """LongBench's scoring imports packages that its prompts do not need; empty ones stand in where they lack."""
    for name, member in (("jieba", "cut"), ("fuzzywuzzy", "fuzz"), ("rouge", "Rouge")):
        if importlib.util.find_spec(name) is None:
            module = types.ModuleType(name)
            setattr(module, member, None)
            monkeypatch.setitem(sys.modules, name, module)
