"""`fairkv tasks`: a folder in order passes, and each thing that can be wrong is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import few_builtins
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.harness.task_check import check
from fairkv_eval.harness.task_files import read_folder
from fairkv_eval.harness.task_library import TaskLibrary
from fairkv_eval.prompts.prompter import Prompter
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.view.segment_text import marked, pieces

DOCS = """
import random
from datasets import Dataset

def docs(**_):
    system = "Be brief. Never tell."
    row = {"fairkv_chat": True, "system": system, "user": "Hi?", "messages": [{"role": "system", "content": system},
        {"role": "user", "content": "Hi?"}], "segments": [{"name": "a", "text": "Be brief."}], "want": "ok"}
    return {"test": Dataset.from_list([dict(row, key=i) for i in range(3)])}

def nothing(**_):
    return {"test": docs()["test"].select([])}

def chance(**_):
    return {"test": docs()["test"].add_column("draw", [random.random() for _ in range(3)])}

def elsewhere(**_):
    return {"test": docs()["test"].map(lambda row: {"segments": [{"name": "a", "text": "Be long."}]})}

def score(doc, results):
    return {"acc": float(str(results[0]) == doc["want"])}

def more(doc, results):
    return score(doc, results) | {"lines": 1.0} if doc["key"] == 2 else score(doc, results)

def fails(doc, results):
    return {"acc": doc["wnat"]}
"""
INSTRUCTED = """
def instructed(**_):
    ids = ["length_constraints:number_words"]
    kwargs = lambda row: [{"num_words": 3, "relation": "at most" if row["key"] == 2 else "at least"}]
    return {"test": docs()["test"].map(lambda row: {"prompt": "p", "instruction_id_list": ids, "kwargs": kwargs(row)})}
"""
GOOD = """task: mine
custom_dataset: !function mine_docs.docs
output_type: generate_until
test_split: test
description: "{{system}}"
doc_to_text: user
doc_to_target: want
process_results: !function mine_docs.score
generation_kwargs:
  until: []
  do_sample: false
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def folder(path: Path, text: str = GOOD, readme: str | None = "* `mine`: a task\n  of mine\n") -> Path:
    (path / "mine_docs.py").write_text(DOCS)
    (path / "mine.yaml").write_text(text)
    if readme is not None:
        (path / "README.md").write_text(readme)
    return path


def findings(path: Path, names: tuple[str, ...] = (), docs: int = 2) -> list[str]:
    prompter = Prompter(tiny.tokenizer(), PromptSettings())
    results = list(check(TaskLibrary(names, [path]), prompter, docs))
    assert results[-1].name == ""
    return [str(finding) for result in results for finding in result.findings]


def test_a_folder_in_order(tmp_path: Path) -> None:
    assert findings(folder(tmp_path)) == []


@pytest.mark.parametrize(
    "before, after, message",
    [
        ("task: mine", "task: [mine", "mine.yaml: cannot be read, so the harness does not see it: while parsing"),
        ("mine_docs.score", "mine_docs.socre", "mine.yaml: cannot be read, so the harness does not see it: Module"),
        ("task: mine\n", "", "mine.yaml: has neither a task nor a group"),
        ("metadata:\n  version: 1.0\n", "", "mine: has no metadata.version"),
        ("mine_docs.docs", "mine_docs.nothing", "mine: cannot be built: its data set is empty"),
        ("mine_docs.docs", "mine_docs.chance", "mine: two builds differ: doc 0 in draw"),
        ("mine_docs.docs", "mine_docs.elsewhere", "mine: doc 0: segment 'a' is not in the prompt"),
        ("mine_docs.score", "mine_docs.fails", "mine: doc 0: scoring an answer failed: a document has no field 'wnat'"),
        ("mine_docs.score", "mine_docs.more", "mine: doc 2: process_results gives 'lines', which metric_list does not"),
        ("doc_to_text: user", 'doc_to_text: "{{question}}"', "mine: cannot be built: 'question' is undefined"),
        ('"{{system}}"', '"{{sytem}}"', "mine: cannot make its prompts: 'sytem' is undefined"),
        ("metric: acc", "metric: lines", "mine: doc 0: process_results gives 'acc', which metric_list does not"),
        ("metric: acc", "metric: lines", "mine: metric_list declares 'lines', which no document gives"),
        ("metadata:", "metdata:", "mine.yaml: unknown key 'metdata'. Did you mean 'metadata'?"),
        (
            "test_split: test\n",
            "test_split: test\ntest_split: test\n",
            "mine.yaml: line 5: the key 'test_split' is given twice",
        ),
        ("until: []", "until: [no]", "mine.yaml: line 10: the harness, which reads YAML 1.1, reads no as False"),
        (
            "do_sample: false",
            "max_gen_toks: 1:30",
            "mine.yaml: line 11: the harness, which reads YAML 1.1, reads 1:30 as 90",
        ),
        (
            "test_split: test\ndescription",
            "description",
            "mine: cannot be built: Task dataset (path=None, name=None) must have valid or test docs!",
        ),
        (
            "output_type: generate_until\ntest_split: test\n",
            "test_split: test\noutput_type: generate_until\n",
            "mine.yaml: output_type stands after test_split; in the order of the keys it goes before it",
        ),
    ],
)
def test_each_mistake_is_found(before: str, after: str, message: str, tmp_path: Path) -> None:
    assert before in GOOD
    found = findings(folder(tmp_path, GOOD.replace(before, after, 1)), docs=3)
    assert any(line.startswith(message) for line in found), found
    assert all("\n" not in line for line in found)


def test_a_wrong_instruction_is_found_in_any_document(tmp_path: Path) -> None:
    """Scoring made-up answers looks at the first documents only, and a checker may draw what it lacks."""
    folder(tmp_path)
    (tmp_path / "mine_docs.py").write_text(DOCS + INSTRUCTED)
    (tmp_path / "mine.yaml").write_text(GOOD.replace("mine_docs.docs", "mine_docs.instructed"))
    (finding,) = findings(tmp_path, docs=1)
    assert finding.startswith("mine: doc 2: instruction 'length_constraints:number_words': relation='at most' is not")


def test_a_forgotten_mark_is_noted(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "mine_docs.py").write_text(DOCS.replace('"fairkv_chat": True, ', ""))
    (found,) = findings(path)
    assert found == "mine: documents have messages and segments, which are ignored without the field fairkv_chat"


def test_a_declared_task_has_keys_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "Hi?"}')
    declared = "task: mine\nclass: !function fairkv_eval.declared.DeclaredTask\ndata: rows.jsonl\n"
    (tmp_path / "mine.yaml").write_text(declared + 'user: "{{ q }}"\nmetrics: refusal\nmetadata: {version: 1.0}\n')
    (found,) = read_folder(tmp_path)[1]
    assert "no README.md" in found.what and not found.wrong
    (tmp_path / "mine.yaml").write_text(declared + "usr: x\n")
    assert any("unknown key 'usr'. Did you mean 'user'?" in finding.what for finding in read_folder(tmp_path)[1])


def test_readmes_and_twins(tmp_path: Path) -> None:
    found = findings(folder(tmp_path, readme=None))
    assert found == [f"mine: its folder {tmp_path.name} has no README.md"]
    (tmp_path / "README.md").write_text("`other`")
    assert findings(tmp_path) == [f"mine: {tmp_path.name}/README.md does not name it (`mine` in backticks)"]
    (tmp_path / "twin.yaml").write_text(GOOD)
    assert "twin.yaml: 'mine' is declared in mine.yaml too" in findings(tmp_path)


def test_metrics_of_a_shared_list_need_one_task_that_gives_them(tmp_path: Path) -> None:
    path = folder(tmp_path, GOOD + "num_fewshot: 0\n", "`mine` `other`")
    (path / "mine.yaml").rename(path / "_base.yaml")
    both = GOOD.replace("higher_is_better: true\n", "higher_is_better: true\n  - {metric: lines, aggregation: mean}\n")
    (path / "_base.yaml").write_text(both.replace("task: mine\n", ""))
    meta = "metadata: {version: 1.0}\n"
    (path / "mine.yaml").write_text(f"include: _base.yaml\ntask: mine\n{meta}")
    message = "metric_list declares 'lines', which no document gives"
    assert findings(path) == [f"mine: {message}"]
    (path / "other.yaml").write_text(
        f"include: _base.yaml\ntask: other\nprocess_results: !function mine_docs.more\n{meta}"
    )
    assert findings(path) == []
    results = list(check(TaskLibrary(["mine"], [path]), Prompter(tiny.tokenizer(), PromptSettings()), 2))
    assert [(f.what, f.wrong) for f in results[-1].findings] == [(message, False)], "the other task was not looked at"


def test_unknown_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few_builtins.patch(monkeypatch)
    with pytest.raises(UsageError, match=r"unknown task 'sys_ifeval_dmo'. Did you mean 'sys_ifeval_demo'"):
        TaskLibrary(["sys_ifeval_dmo"])
    with pytest.raises(UsageError, match=r"unknown task 'mine'.*Files that cannot be read: mine.yaml: cannot be read"):
        TaskLibrary(["mine"], [folder(tmp_path, "task: [mine")])
    with pytest.raises(UsageError, match="is not a folder"):
        TaskLibrary([], [tmp_path / "nowhere"])


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairkv_eval.pretrained.load_tokenizer", lambda name: tiny.tokenizer())


@pytest.mark.usefixtures("tokenizer")
class TestCommand:
    def test_in_order(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["tasks", "--check", "--include_path", str(folder(tmp_path)), "--show", "2"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("mine  3 documents, 1 metrics\n") and out.endswith("1 tasks checked: nothing wrong\n")
        assert out.count("⟦a: Be brief.⟧ Never tell.<|end|>\n    ¦<|start|>user") == 2 and "\x1b" not in out

    def test_something_wrong(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = folder(tmp_path, GOOD.replace("docs.docs", "docs.elsewhere"))
        assert main(["tasks", "mine", "--check", "--include_path", str(path), "--limit", "1"]) == 1
        out = capsys.readouterr().out
        assert "\nwrong  mine: doc 0: segment 'a' is not in the prompt" in out
        assert out.endswith("1 tasks checked: 1 wrong\n")
        assert main(["tasks", "mine", "--check", "--include_path", str(path), "--limit", "1", "--json"]) == 1
        printed = json.loads(capsys.readouterr().out)
        assert printed["wrong"] == 1 and printed["findings"][0]["where"] == "mine"
        assert printed["tasks"] == [{"task": "mine", "documents": 3, "declared": ["acc"], "given": ["acc"]}]

    def test_our_demo_tasks_are_in_order(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["tasks", "--check", "sys_ifeval_demo", "raccoon_demo"]) == 0
        assert "2 tasks checked: nothing wrong" in capsys.readouterr().out

    def test_metrics_that_only_scores_of_this_package_give(
        self, published: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["tasks", "--check", "raccoon_preference"]) == 0
        assert "1 tasks checked: nothing wrong" in capsys.readouterr().out

    @pytest.mark.parametrize("option", [["--limit", "0"], ["--show", "-1"]])
    def test_numbers(self, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["tasks", "--check", *option]) == 2
        assert f"{option[0]} {option[1]} is not allowed" in capsys.readouterr().err

    def test_the_list(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["tasks", "--include_path", str(folder(tmp_path))]) == 0
        assert capsys.readouterr().out.splitlines()[1].split(None, 3) == [
            *("mine", "1.0", "generate_until", "a task of mine")
        ]
        assert main(["tasks", "--json"]) == 0
        entries: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        assert {"sys_ifeval_demo", "pitfalls"} <= {entry["task"] for entry in entries}
        assert all(entry["summary"] and entry["version"] >= 1.0 for entry in entries)


segments = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.integers(1, 9)), max_size=5)


@given(segments, st.integers(0, 30))
def test_pieces_cover_every_place_once(given: list[tuple[str, int, int]], stop: int) -> None:
    drawn = [Segment(name, start, start + n) for name, start, n in given]
    found = list(pieces(drawn, stop))
    assert [place for piece in found for place in range(piece.start, piece.stop)] == list(range(stop))
    for name, start, end in found:
        for place in range(start, end):
            holders = [s.name for s in drawn if s.start <= place < s.stop]
            assert (name in holders) if name else not holders


def test_long_stretches_say_what_is_left_out() -> None:
    text = marked("x" * 50 + "y", [Segment("a", 0, 50)], 50, False, 10).plain
    assert text == "⟦a: xxxxx … 40 characters … xxxxx⟧¦y"
