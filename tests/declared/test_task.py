"""Tasks by YAML alone: what tasks/README.md says, and one clear error for what is wrong."""

from __future__ import annotations

import hashlib
import http.server
import json
import logging
import re
import shlex
import threading
from pathlib import Path
from typing import Any

import datasets
import few_builtins
import pytest
import tiny
import yaml
from lm_eval.tasks import TaskManager

from fairkv_eval.cli import main
from fairkv_eval.declared import DeclaredTask
from fairkv_eval.errors import DataError, UsageError
from fairkv_eval.files import resource_dir
from fairkv_eval.headlines import names_of
from fairkv_eval.metrics import leakage
from fairkv_eval.model import FairKV

ROWS = [{"passage": "The mill is old.", "question": f"How old{'?' * n}", "answer": "very"} for n in (1, 2)]
GUIDE = {"data": "rows.jsonl", "user": "{{ passage }}\n{{ question }}"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n", encoding="utf-8")
    return tmp_path


def load(folder: Path, **keys: Any) -> Any:
    """The task of a YAML with these keys, as the harness finds it."""
    config = {"task": "mine", **{k: v for k, v in {**GUIDE, **keys}.items() if v is not None}}
    lines = "class: !function fairkv_eval.declared.DeclaredTask\n" + yaml.safe_dump(config)
    (folder / "mine.yaml").write_text(lines, encoding="utf-8")
    return TaskManager(include_path=str(folder), include_defaults=False).load(["mine"])["tasks"]["mine"]


def test_the_walk_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Does exactly what the README says; only the model is named, and saved before: a tiny one."""
    from lm_eval.__main__ import cli_evaluate

    section = (resource_dir("tasks") / "README.md").read_text(encoding="utf-8").split("## A task by YAML alone\n")[1]
    blocks = re.findall(r"```(\w+)[^\n]*\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    assert [kind for kind, _ in blocks] == ["json", "yaml", "bash"]
    (tmp_path / "my_tasks").mkdir()
    for name, (_, text) in zip(("guide.jsonl", "guide.yaml"), blocks, strict=False):
        assert f"`my_tasks/{name}`" in section
        (tmp_path / "my_tasks" / name).write_text(text, encoding="utf-8")
    tiny.model().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    few_builtins.patch(monkeypatch)
    check, run = blocks[2][1].splitlines()
    assert main([*shlex.split(check)[1:], "--pretrained", "model"]) == 0
    assert "in order" in capsys.readouterr().out
    command = shlex.split(run)
    command[command.index("--model_args") + 1] += ",pretrained=model"
    monkeypatch.setattr("sys.argv", [*command, "--output_path", "out", "--log_samples"])
    cli_evaluate()
    (path,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(path.read_text(encoding="utf-8"))
    scores = results["results"]["guide"]
    assert 0.4 < scores["keep_rate_rules,none"] < 0.6 and 0.4 < scores["keep_rate_note,none"] < 0.6
    assert {"exact_match,none", "refusal,none", "leak@0.8,none", "kv_bytes_kept,none"} <= set(scores)
    (samples,) = (tmp_path / "out").rglob("samples_guide_*.jsonl")
    for sample in map(json.loads, samples.read_text(encoding="utf-8").splitlines()):
        doc = sample["doc"]
        assert doc["messages"][0] == {"role": "system", "content": f"You are a guide. {doc['rules']}\n\n{doc['note']}"}
        expected = leakage({**doc, "directive": doc["note"], "defense": ""}, sample["resps"][0][0])
        assert sample["rougeL_recall_secret"] == expected["rougeL_recall_secret"]
    assert "guide" in capsys.readouterr().out


def test_a_declared_context_is_where_compression_ends(folder: Path) -> None:
    task = load(folder, context="{{ passage }}", metrics="exact_match", doc_to_target="answer")
    task.build_all_requests()
    lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), press="knorm", ratio=0.5, batch_size=2)
    for request in task.instances:
        text = lm.prompter.divide(request.args[0], request.doc, "mine")
        assert text.context_end is not None and text.text[text.context_end :].startswith("\nHow old?")
        assert task.process_results(request.doc, ["very"]) == {"exact_match": 1.0}


def test_messages_with_examples_and_a_begun_answer(folder: Path) -> None:
    turns = [
        ("system", "Be brief."),
        ("user", "1?"),
        ("assistant", "1."),
        ("user", "{{ question }}"),
        ("assistant", "It"),
    ]
    messages = [{"role": role, "content": content} for role, content in [*turns, ("assistant", "It")]]
    task = load(folder, user=None, messages=messages, segments=[{"name": "x", "text": "Be brief."}])
    doc, lm = task.test_docs()[0], FairKV(tiny.model(), tokenizer=tiny.tokenizer(), batch_size=2)
    assert doc["user"] == "How old?" and doc["system"] == "Be brief."
    plain = task.fewshot_context(doc, 0, system_instruction="Extra.")
    text = lm.prompter.divide(plain, doc)
    rendered = task.fewshot_context(
        doc, 0, system_instruction="Extra.", apply_chat_template=True, chat_template=lm.apply_chat_template
    )
    assert text.text == rendered and "system\nExtra.\n\nBe brief." in rendered
    with pytest.raises(UsageError, match="num_fewshot stays 0"):
        task.fewshot_context(doc, 1)


def test_multiple_choice_and_messages_of_the_rows(folder: Path) -> None:
    rows = [{"chat": [{"role": "user", "content": "Old or new?"}], "gold": 1, "parts": [{"name": "q", "text": "new"}]}]
    (folder / "rows.jsonl").write_text(json.dumps(rows[0]), encoding="utf-8")
    task = load(
        folder,
        user=None,
        messages="chat",
        segments="parts",
        output_type="multiple_choice",
        doc_to_choice=["old", "new"],
        doc_to_target="gold",
    )
    task.build_all_requests()
    assert [request.args[1] for request in task.instances] == ["old", "new"]
    lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), press="tova", ratio=0.5, batch_size=2)
    scores = task.process_results(task.test_docs()[0], lm.loglikelihood(task.instances))
    assert set(scores) == {"acc", "acc_norm"} and task.test_docs()[0]["segments"] == rows[0]["parts"]


def test_rows_behind_a_url(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: Any) -> None: ...

    monkeypatch.setenv("FAIRKV_CACHE", str(tmp_path / "cache"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    data = {"url": f"http://127.0.0.1:{server.server_port}/rows.jsonl"}
    digest = hashlib.sha256((folder / "rows.jsonl").read_bytes()).hexdigest()
    assert len(load(folder, data={**data, "sha256": digest}).test_docs()) == 2
    with pytest.raises(DataError, match="is not the file with sha256 0000"):
        load(folder, data={**data, "sha256": "0" * 64})
    server.shutdown()
    server.server_close()
    assert len(load(folder, data={**data, "sha256": digest}).test_docs()) == 2  # from the cache
    with pytest.raises(DataError, match="cannot be fetched"):
        load(folder, data={**data, "sha256": "1" * 64})


def test_rows_of_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hub(path: str, **options: Any) -> Any:
        if path != "me/mills":
            raise ConnectionError("offline")
        assert options == {"split": "test", "name": "en"}
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", hub)
    assert len(load(folder, data={"hub": "me/mills", "split": "test", "name": "en"}).test_docs()) == 2
    with pytest.raises(DataError, match=r"task mine: me/others: cannot be loaded \(ConnectionError: offline\)"):
        load(folder, data={"hub": "me/others", "split": "test"})
    with pytest.raises(UsageError, match="me/mills needs a split"):
        load(folder, data={"hub": "me/mills"})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": None}, "a declared task needs data:"),
        ({"data": "row.jsonl"}, "cannot be read at"),
        ({"data": 3}, "data=3 is not allowed"),
        ({"data": {"url": "ftp://x"}}, "url='ftp://x' is not allowed"),
        ({"data": {"url": "https://x"}}, "https://x needs the sha256"),
        ({"data": {"hub": "x", "splt": "test"}}, "unknown key of data 'splt'. Did you mean 'split'"),
        ({"user": None}, "needs user:"),
        ({"user": "{{ questoin }}"}, "row 1: messages, user: 'questoin' is undefined; the row has the fields answer"),
        ({"user": "{{ question"}, "messages, user: the template cannot be read"),
        ({"user": "{{ ''.__class__.__mro__ }}"}, "row 1: messages, user: the template fails: SecurityError"),
        ({"user": "{% if false %}x{% endif %}"}, "row 1: there is no user turn"),
        ({"messages": []}, "cannot be given together"),
        ({"user": None, "messages": [{"role": "bot", "content": "x"}]}, "unknown role 'bot'"),
        ({"user": None, "messages": "chat"}, "row 1: unknown field for messages 'chat'"),
        ({"segments": [{"name": "x"}]}, "segments: takes a list of {name, text}"),
        ({"segments": [{"name": "x", "text": "absent"}]}, "row 1: segment 'x' is not in the messages"),
        ({"metrics": ["leakag"]}, "unknown metric 'leakag'. Did you mean 'leakage'"),
        ({"metrics": ["leakage"]}, "the metric 'leakage' needs secret, which come from secret:"),
        ({"metrics": ["ifeval"]}, "the metric 'ifeval' needs key, prompt, instruction_id_list, kwargs"),
        ({"metric_list": [{"metric": "exact_mach"}]}, "unknown metric in metric_list 'exact_mach'"),
        ({"output_type": "multiple_choice"}, "output_type multiple_choice needs doc_to_target"),
        ({"output_type": "loglikelihood", "metrics": "refusal"}, "metrics: refusal score generated answers"),
        ({"usr": "x"}, "unknown key 'usr'. Did you mean 'user'"),
        ({"doc_to_target": "anwser"}, "row 1: unknown field for doc_to_target 'anwser'. Did you mean 'answer'?"),
        ({"doc_to_target": "{{ anwser }}"}, "row 1: doc_to_target: 'anwser' is undefined"),
        ({"doc_to_target": "{{ answer }"}, "doc_to_target: the template cannot be read"),
        ({"secret": "{{ '' }}", "metrics": "leakage"}, "row 1: the document with key None: its secret '' has no words"),
        ({"output_type": "loglikelihood", "doc_to_target": "{{ '' }}"}, "row 1: doc_to_target is empty"),
        ({"output_type": "multiple_choice", "doc_to_target": 0}, "multiple_choice needs doc_to_choice"),
        (
            {"output_type": "multiple_choice", "doc_to_target": 2, "doc_to_choice": ["a", "b"]},
            "row 1: doc_to_target: 2 is neither one of the choices",
        ),
        (
            {"output_type": "multiple_choice", "doc_to_target": "answer", "doc_to_choice": ["a", "b"]},
            "row 1: doc_to_target: 'very' is neither one of the choices",
        ),
        (
            {"output_type": "multiple_choice", "doc_to_target": "answer", "doc_to_choice": "anwser"},
            "row 1: unknown field for doc_to_choice 'anwser'",
        ),
        ({"doc_to_text": "x"}, "doc_to_text does not go with a declared task"),
    ],
)
def test_what_is_wrong(folder: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, DataError)) as error:
        load(folder, **keys)
    assert str(error.value).startswith("task mine: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("{}\n{", "line 2: not JSON"),
        ("[1]", "'[1]' is not a JSON object"),
        ("\xff", "not JSON"),
        ('{"a": NaN}', "line 1: NaN is not a JSON value"),
        ('{"a": [1e999]}', "line 1: field 'a': a number is too large"),
        ('{"a": 9223372036854775808}', "line 1: field 'a': the number 9223372036854775808… is too large"),
        (f'{{"a": {"9" * 5000}}}', "line 1: "),
        (r'{"a": ["\ud800"]}', "line 1: field 'a': its text has half a character (a lone surrogate) at 0"),
        ('{"a": 1, "a": 2}', "line 1: the key 'a' is given twice"),
        ("[" * 99999, "line 1: its values are nested too deeply"),
        ('{"a": "x"}\n{"a": 1}', "row 2: the field 'a' is a whole number, and in row 1 a text; all rows take the same"),
        ('{"a": 1}\n{"a": 1.5}', "row 2: the field 'a' is a fraction, and in row 1 a whole number"),
        ('{"a": [1]}\n{"a": ["x"]}', "the rows do not fit into one table"),
        ('{"a": [1]}\n{"a": [1.5]}', "row 1: the field 'a' holds values of another kind than other rows"),
    ],
)
def test_wrong_rows(folder: Path, text: str, message: str) -> None:
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)) as error:
        load(folder, user="What?")
    assert str(error.value).startswith("task mine: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "rows", "message"),
    [
        ({"doc_to_target": "a"}, [{"a": "x"}, {"b": "x"}], "row 2: unknown field for doc_to_target 'a'"),
        ({"doc_to_target": "a"}, [{"a": "x"}, {"a": None}], "row 2: doc_to_target: the field 'a' is null"),
        (
            {"doc_to_target": "{{ a }}"},
            [{"a": "x"}, {"a": None}],
            "row 2: doc_to_target: a value is null; the row's null",
        ),
        (
            {"user": "{{ a }}"},
            [{"a": "x"}, {"a": None}],
            "row 2: messages, user: a value is null; the row's null fields: a",
        ),
        ({"user": "{{ a }}"}, [{"a": "x"}, {}], "row 2: messages, user: 'a' is undefined"),
        (
            {"user": None, "messages": "chat"},
            [{"chat": [{"role": "user", "content": None}]}],
            "row 1: messages: the field 'chat' has {'role': 'user', 'content': None}; it takes texts",
        ),
        (
            {"user": None, "messages": "chat"},
            [{"chat": [{"role": "usr", "content": "x"}]}],
            "row 1: unknown role 'usr'. Did you mean 'user'?",
        ),
        (
            {"secret": "{{ a }}", "metrics": "leakage"},
            [{"key": 7, "a": "x"}, {"key": 8, "a": "…"}],
            "row 2: the document with key 8: its secret '…' has no words to leak",
        ),
    ],
)
def test_a_field_is_there_in_every_row(folder: Path, keys: dict, rows: list[dict], message: str) -> None:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises((UsageError, DataError)) as error:
        load(folder, **{"user": "What?", **keys})
    assert str(error.value).startswith("task mine: ") and message in str(error.value)


INSTRUCTION = {"key": 1, "prompt": "p", "instruction_id_list": ["length_constraints:number_words"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"kwargs": [{"num_words": 3, "relation": "at most"}]},
            "relation='at most' is not allowed; it takes 'less than'",
        ),
        ({"kwargs": [{"num_words": "3", "relation": "at least"}]}, "num_words='3' is not allowed; it takes a whole"),
        ({"kwargs": [{"num_words": 0, "relation": "at least"}]}, "num_words=0 is not allowed"),
        ({"kwargs": [{"num_words": 3}]}, "its argument 'relation' is missing"),
        (
            {"kwargs": [{"num_wrds": 3, "relation": "at least"}]},
            "unknown argument 'num_wrds'. Did you mean 'num_words'?",
        ),
        ({"kwargs": [None]}, "kwargs None is not allowed"),
        ({"kwargs": []}, "kwargs has 0 entries for 1 instructions"),
        ({"kwargs": None}, "kwargs=None is not allowed"),
        ({"instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}, "Did you mean 'punctuation:no_comma'?"),
        ({"instruction_id_list": [], "kwargs": []}, "instruction_id_list=[] is not allowed"),
        (
            {"instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": "garden"}]},
            "it takes a list of words",
        ),
        ({"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "xx"}]}, "it takes af, ar,"),
        (
            {
                "instruction_id_list": ["length_constraints:nth_paragraph_first_word"],
                "kwargs": [{"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}],
            },
            "nth_paragraph=3 is more than its num_paragraphs",
        ),
    ],
)
def test_an_instruction_that_the_checkers_refuse_or_draw(folder: Path, row: dict, message: str) -> None:
    good = INSTRUCTION | {"kwargs": [{"num_words": 3, "relation": "at least"}]}
    (folder / "rows.jsonl").write_text(json.dumps(good), encoding="utf-8")
    assert len(load(folder, user="What?", metrics="ifeval").test_docs()) == 1
    (folder / "rows.jsonl").write_text(f"{json.dumps(good)}\n{json.dumps(INSTRUCTION | row)}", encoding="utf-8")
    with pytest.raises(UsageError, match="task mine: row 2: ") as error:
        load(folder, user="What?", metrics="ifeval")
    assert message in str(error.value)


def test_rows_are_read_back_as_they_were_written(folder: Path) -> None:
    rows = [{"a": "é", "b": [1, 2], "c": {"x": None}, "n": 2**63 - 1}, {"a": "秘", "b": [], "n": -(2**63), "f": 0.1}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")  # with a BOM
    docs = load(folder, user="What?", doc_to_target="a").test_docs()
    assert [{key: doc[key] for key in row} for doc, row in zip(docs, rows, strict=True)] == rows


def test_what_the_harness_misreads_is_refused(folder: Path) -> None:
    (folder / "_base.yaml").write_text("generation_kwargs: {max_gen_toks: 1:30}\n")
    with pytest.raises(UsageError, match=r"task mine: _base.yaml, line 1: the harness.* reads 1:30 as 90"):
        load(folder, include="_base.yaml")
    load(folder)
    with (folder / "mine.yaml").open("a") as file:
        file.write("user: Hm?\n")
    with pytest.raises(UsageError, match=r"task mine: mine.yaml, line 7: the key 'user' is given twice"):
        TaskManager(include_path=str(folder), include_defaults=False).load(["mine"])


def test_a_yaml_that_cannot_be_read_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    from fairkv_eval import plugin

    plugin.install()
    (folder / "broken.yaml").write_text("task: [", encoding="utf-8")
    (folder / "lost.yaml").write_text("include: nowhere.yaml\ntask: lost", encoding="utf-8")
    (folder / "list.yaml").write_text("- 1", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        load(folder)
    warnings = [record.getMessage() for record in caplog.records if record.name == "fairkv_eval.plugin"]
    assert len(warnings) == 2 and "broken.yaml" in warnings[0] and "nowhere.yaml" in warnings[1]


def test_two_builds_give_the_same_documents(folder: Path) -> None:
    assert load(folder).test_docs().to_list() == load(folder).test_docs().to_list()
    assert isinstance(load(folder), DeclaredTask)


def test_printed_is_what_was_asked_for(folder: Path) -> None:
    task = load(folder, metrics=["refusal", "exact_match", "leakage"], secret="{{ passage }}", doc_to_target="answer")
    config = task.dump_config()
    names = names_of({"configs": {"mine": config}}, "mine")
    assert names == {"exact_match", "refusal", "rougeL_recall_secret", "leak@0.3", "leak@0.8"}
    recorded = {entry["metric"]: entry for entry in config["metric_list"]}
    assert {"keep_rate", "kv_bytes_kept", "rouge1_f1_directive", *names} <= recorded.keys()
    assert recorded["leak@0.8"]["higher_is_better"] is False and recorded["exact_match"]["higher_is_better"] is True
