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

from fairkv_eval.declared import DeclaredTask
from fairkv_eval.errors import DataError, UsageError
from fairkv_eval.files import resource_dir
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
    blocks = re.findall(r"```(\w+)\n(.*?)```", section.split("\n## ")[0], re.DOTALL)
    assert [kind for kind, _ in blocks] == ["json", "yaml", "bash"]
    (tmp_path / "my_tasks").mkdir()
    for name, (_, text) in zip(("guide.jsonl", "guide.yaml"), blocks, strict=False):
        assert f"`my_tasks/{name}`" in section
        (tmp_path / "my_tasks" / name).write_text(text, encoding="utf-8")
    tiny.model().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    few_builtins.patch(monkeypatch)
    command = shlex.split(blocks[2][1])
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
        ({"doc_to_text": "x"}, "doc_to_text does not go with a declared task"),
    ],
)
def test_what_is_wrong(folder: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((UsageError, DataError)) as error:
        load(folder, **keys)
    assert str(error.value).startswith("task mine: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no rows"), ("{}\n{", "line 2: not JSON"), ("[1]", "'[1]' is not a JSON object"), ("\xff", "not JSON")],
)
def test_wrong_rows(folder: Path, text: str, message: str) -> None:
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)):
        load(folder)


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
