"""Tasks of the harness with other documents: all but the documents is the harness's, and nothing needs a hub."""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dataset_stand_ins
import package_tasks
import pytest
import tiny

from fairkv_eval.documents import published
from fairkv_eval.documents.needles import needles
from fairkv_eval.errors import DataError, UsageError
from fairkv_eval.files import resource_dir
from fairkv_eval.prompts.declared_context import declared_context

NEEDLES = [(kind, k, 1024 * int(k[0])) for kind in ("niah_single_1", "niah_multikey_2") for k in ("1k", "4k")]
DOCUMENTS_OF_ITS_OWN = ("task", "custom_dataset", "dataset_path", "dataset_name", "dataset_kwargs", "metadata")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """RULER's module, imported anew with the stand-in words, and forgotten afterwards."""
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler")]:
        monkeypatch.delitem(sys.modules, name)
    dataset_stand_ins.words(monkeypatch)
    yield
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler")]:
        del sys.modules[name]


def load(name: str, **metadata: Any) -> Any:
    return package_tasks.manager(**metadata).load([name])["tasks"][name]


def settings(task: Any) -> dict[str, Any]:
    """A task's configuration, but for its name and where its documents come from."""
    described = {key: value for key, value in task.dump_config().items() if key not in DOCUMENTS_OF_ITS_OWN}
    return json.loads(json.dumps(described, default=str))


def requests(task: Any, chat: bool) -> list[Any]:
    task.build_all_requests(
        limit=4,
        apply_chat_template=chat,
        fewshot_as_multiturn=chat,
        chat_template=(lambda turns, **_: json.dumps(turns)) if chat else None,
    )
    return [(request.doc, request.args) for request in task.instances]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("chat", [False, True])
def test_gsm8k_is_the_harness_s_but_for_where_its_rows_are(chat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in published.read_file(published.GSM8K).decode().splitlines()]
    monkeypatch.setitem(dataset_stand_ins.ROWS, "openai/gsm8k", rows[:4])
    ours = load("gsm8k_cot_offline", press="tova", pretrained="some/model")
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: pytest.fail("went to the hub"))
    again = load("gsm8k_cot_offline")
    dataset_stand_ins.use(monkeypatch)
    theirs = dataset_stand_ins.task("gsm8k/gsm8k-cot")
    assert settings(ours) == settings(theirs) and ours.VERSION == theirs.VERSION
    assert [args for _, args in requests(ours, chat)] == [args for _, args in requests(theirs, chat)]
    assert ours.eval_docs[3] == again.eval_docs[3] == {"question": rows[3]["question"], "answer": rows[3]["answer"]}
    assert ours.process_results(rows[0], ["18"]) == theirs.process_results(rows[0], ["18"]) == {"exact_match": 1.0}
    assert ours.config.num_fewshot == 8 and len(requests(ours, chat)[0][1][0]) > 2000
    assert ours.config.metadata["harness"]["task"] == "gsm8k_cot"


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize(("kind", "suffix", "length"), NEEDLES)
def test_needles_are_those_that_the_harness_draws_from_its_default_seed(
    kind: str, suffix: str, length: int, saved: str
) -> None:
    random.seed(7)
    ours = load(f"{kind}_offline_{suffix}", tokenizer=saved)
    random.seed(0)
    theirs = dataset_stand_ins.task(f"ruler/{kind}", tokenizer=saved, max_seq_lengths=[length])
    assert ours.eval_docs[:] == theirs.eval_docs[:] and len(ours.eval_docs) == 500
    for chat in (False, True):
        assert requests(ours, chat) == requests(theirs, chat)
    differing = {key for key, value in settings(ours).items() if settings(theirs).get(key) != value}
    assert differing == {"metric_list"} and ours.VERSION == theirs.VERSION


@pytest.mark.usefixtures("few_words")
@pytest.mark.parametrize(("kind", "suffix", "length"), NEEDLES)
def test_needles_are_scored_as_by_the_harness_at_their_own_length_alone(
    kind: str, suffix: str, length: int, saved: str
) -> None:
    ours = load(f"{kind}_offline_{suffix}", tokenizer=saved)
    doc = ours.eval_docs[0]
    right, wrong = f" {doc['outputs'][0]}.", " 12."
    theirs = dataset_stand_ins.task(f"ruler/{kind}", tokenizer=saved, max_seq_lengths=[length])
    for answer, score in ((right, 1.0), (wrong, 0.0)):
        assert ours.process_results(doc, [answer]) == {str(length): score}
        assert theirs.process_results(doc, [answer])[str(length)] == score
    assert set(ours.aggregation()) == {str(length)} and ours.aggregation()[str(length)]([1.0, 0.0]) == 0.5
    context = declared_context(doc, ours.task_name, None, "context")
    assert context is not None and doc["outputs"][0] in context and not context.endswith("?")


@pytest.mark.usefixtures("few_words")
def test_a_gguf_file_counts_the_tokens_of_needles(monkeypatch: pytest.MonkeyPatch, saved: str) -> None:
    sources: list[dict[str, Any]] = []

    def tokenizer(**source: Any) -> Any:
        sources.append(source)
        return tiny.tokenizer()

    monkeypatch.setattr("fairkv_eval.documents.needles.load_tokenizer", tokenizer)
    load("niah_single_1_offline_1k", pretrained="folder", gguf_file="a.gguf", dtype="bfloat16", press="tova")
    load("niah_single_1_offline_1k", pretrained="folder", gguf_file="a.gguf", tokenizer=saved)
    load("niah_single_1_offline_1k")
    assert sources == [{"pretrained": "folder", "gguf_file": "a.gguf", "dtype": "bfloat16"}, {"pretrained": saved}, {}]


@pytest.mark.usefixtures("few_words")
def test_other_draws_go_on_as_if_there_were_no_needles(saved: str) -> None:
    random.seed(7)
    state = random.getstate()
    needles("niah_single_1", 512, tokenizer=saved)
    assert random.getstate() == state


@pytest.mark.usefixtures("few_words")
def test_wrong_metadata_is_an_error(saved: str) -> None:
    with pytest.raises(UsageError, match="max_seq_lengths"):
        load("niah_single_1_offline_1k", tokenizer=saved, max_seq_lengths=[2048])


@pytest.mark.usefixtures("published")
def test_wrong_metadata_of_gsm8k_is_an_error() -> None:
    with pytest.raises(UsageError, match="metadata 'num_questions'"):
        load("gsm8k_cot_offline", num_questions=3)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saved: str) -> None:
    monkeypatch.setenv("FAIRKV_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"task gsm8k_cot_offline: .*cannot be read"):
        load("gsm8k_cot_offline")
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ruler")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wonderwords", None)
    with pytest.raises(UsageError, match=r"task niah_single_1_offline_1k: .*install.*wonderwords"):
        load("niah_single_1_offline_1k", tokenizer=saved)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("harness: gsm8k/gsm9k-cot.yaml", "'gsm8k/gsm9k-cot.yaml'. Did you mean 'gsm8k/gsm8k-cot.yaml'"),
        ("harness: gsm8k/README.md", "'gsm8k/README.md'."),
        ("harness: 3", "3."),
        ("", "None."),
    ],
)
def test_a_file_that_the_harness_lacks_is_an_error(tmp_path: Path, line: str, message: str) -> None:
    from lm_eval.tasks import TaskManager

    text = (resource_dir("tasks") / "harness_offline" / "gsm8k_cot_offline.yaml").read_text(encoding="utf-8")
    text = text.replace("harness: gsm8k/gsm8k-cot.yaml", line).replace("_offline", "_mine")
    (tmp_path / "mine.yaml").write_text(text)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    with pytest.raises(UsageError, match=rf"task gsm8k_cot_mine: unknown harness .*\) {re.escape(message)}"):
        manager.load(["gsm8k_cot_mine"])


@pytest.mark.usefixtures("published")
def test_the_version_is_the_installed_harness_s(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    text = (resource_dir("tasks") / "harness_offline" / "gsm8k_cot_offline.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(text.replace("version: 3.0", "version: 2.0").replace("_offline", "_mine"))
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert manager.load(["gsm8k_cot_mine"])["tasks"]["gsm8k_cot_mine"].VERSION == 3.0


def test_listed_versions_are_those_of_the_tested_harness() -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    for path in (resource_dir("tasks") / "harness_offline").glob("*_offline*.yaml"):
        config = load_yaml(path, resolve_func=False)
        if "harness" in config:
            theirs = load_yaml(dataset_stand_ins.FOLDER / config["harness"], resolve_func=False)
            assert config["metadata"]["version"] == theirs["metadata"]["version"]
