"""Results explain themselves: prompts in the samples, the template and the model's name, and loggers that can read all.

The harness's own loggers run here on stand-ins for W&B and Zeno, which need an account.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import tiny
import tiny_evaluation
from lm_eval import evaluator
from lm_eval.loggers import EvaluationTracker, WandbLogger
from lm_eval.tasks import TaskManager

from fairkv_eval import plugin
from fairkv_eval.files import resource_dir
from fairkv_eval.harness import explanations
from fairkv_eval.harness.explanations import explaining, name_results
from fairkv_eval.pretrained import HUB_NAME
from fairkv_eval.results.published_fields import published_sample

GUIDE = """
task: {name}
class: !function fairkv_eval.declared.DeclaredTask
data: guide.jsonl
system: "You are a guide. {{{{ rules }}}}"
user: "{{{{ question }}}}"
segments: [{{name: rules, text: "{{{{ rules }}}}"}}]
secret: "{{{{ rules }}}}"
doc_to_target: question
generation_kwargs: {{max_gen_toks: 3}}
metrics: [leakage, refusal, exact_match]
metadata: {{version: 1.5}}
"""
MAX_LENGTH = 40
DEMOS = ["sys_ifeval_demo", "raccoon_demo"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and tasks of each kind: with choices, plain ones, declared ones, and a group of these."""
    folder = tmp_path_factory.mktemp("explained")
    tiny_evaluation.write_tasks(folder)
    tiny.model(max_position_embeddings=4096).save_pretrained(folder / "model")
    rows = [{"rules": "Be brief.", "question": "Why?"}, {"rules": "Be polite, and brief.", "question": "Who?"}]
    (folder / "guide.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("guide_a", "guide_b"):
        (folder / f"{name}.yaml").write_text(GUIDE.format(name=name))
    (folder / "guides.yaml").write_text("group: guides\ntask: [guide_a, guide_b]\nmetadata: {version: 1.5}\n")
    return folder


def evaluate(folder: Path, tasks: list[str], model: str = "fairkv", **keys: Any) -> dict[str, Any]:
    plugin.install()
    paths = [str(folder), str(resource_dir("tasks"))]
    arguments = {"pretrained": str(folder / "model"), "dtype": "float32", **keys.pop("arguments", {})}
    results = evaluator.simple_evaluate(
        model,
        arguments,
        tasks=tasks,
        task_manager=TaskManager(include_path=paths, include_defaults=False),
        device="cpu",
        bootstrap_iters=0,
        limit=2,
        **keys,
    )
    assert results is not None
    return results


@pytest.fixture(scope="module")
def every_kind(folder: Path) -> dict[str, Any]:
    tasks = [*tiny_evaluation.TASKS, "guides", *DEMOS]
    return evaluate(folder, tasks, arguments={"press": "tova", "ratio": 0.5}, gen_kwargs={"max_gen_toks": 3})


def test_samples_have_the_prompt_of_the_model(every_kind: dict[str, Any]) -> None:
    tokenizer = tiny.tokenizer()
    for sample in every_kind["samples"]["guide_a"]:
        (prompt,) = sample["prompts"]
        messages = [{k: m[k] for k in ("role", "content")} for m in sample["doc"]["messages"]]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(text)["input_ids"]
        assert prompt["text"] == text != sample["arguments"][0][0]
        assert prompt["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert (prompt["chat"], prompt["scope"], prompt["segments"]) == ("on", "system", "task")
        assert (prompt["tokens"], prompt["truncated_tokens"]) == (len(tokens), 0)
        assert tokenizer.decode(tokens[: prompt["context_tokens"]]) == text[: text.index("<|start|>user")]
        (rules,) = prompt["ranges"]
        assert rules["name"] == "rules"
        assert tokenizer.decode(tokens[rules["start"] : rules["stop"]]) == sample["doc"]["rules"]
    assert len({sample["prompts"][0]["template_sha256"] for sample in every_kind["samples"]["guide_b"]}) == 1


def test_choices_share_a_prompt_and_plain_texts_have_no_template(every_kind: dict[str, Any]) -> None:
    for task in ("pick", "say"):
        for sample in every_kind["samples"][task]:
            (prompt,) = sample["prompts"]
            assert prompt["text"] == sample["arguments"][0][0]
            assert (prompt["chat"], prompt["template_sha256"], prompt["scope"]) == ("off", None, "prompt")


def test_a_cut_prompt_names_the_ranges_that_are_left(folder: Path) -> None:
    results = evaluate(folder, ["guide_a"], arguments={"max_length": MAX_LENGTH, "truncation": True})
    prompt = results["samples"]["guide_a"][1]["prompts"][0]
    tokens = tiny.tokenizer()(prompt["text"])["input_ids"]
    assert prompt["truncated_tokens"] == len(tokens) - prompt["tokens"] > 0
    assert prompt["context_tokens"] < prompt["text"].index("<|start|>user")
    (rules,) = prompt["ranges"]
    kept = tokens[prompt["truncated_tokens"] :]
    assert "Be polite, and brief.".endswith(tiny.tokenizer().decode(kept[rules["start"] : rules["stop"]]))


def test_notes_are_counted_once(folder: Path) -> None:
    results = evaluate(folder, ["guide_a"], arguments={"max_length": MAX_LENGTH, "truncation": True})
    assert results["config"]["fairkv"]["notes"] == {"prompts truncated": 2, "prompts truncated into a segment": 1}


class Table:
    """As W&B's: a column has one type beside None."""

    def __init__(self, columns: list[str]) -> None:
        self.types: dict[str, type] = {}
        self.columns = columns

    def add_data(self, *row: Any) -> None:
        for column, value in zip(self.columns, row, strict=True):
            kind = float if isinstance(value, (int, float)) else type(value)
            assert value is None or self.types.setdefault(column, kind) is kind, (column, value)


class Artifact:
    def __init__(self, name: str, type: str) -> None:
        self.files: dict[str, io.StringIO] = {}

    @contextlib.contextmanager
    def new_file(self, name: str, mode: str, encoding: str) -> Iterator[io.StringIO]:
        self.files[name] = io.StringIO()
        yield self.files[name]
        json.loads(self.files[name].getvalue())


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    logged: dict[str, Any] = {}
    nothing = SimpleNamespace(update=lambda *_, **__: None)
    run = SimpleNamespace(
        config=nothing, summary=nothing, log=lambda entry, step: logged.update(entry), log_artifact=lambda _: None
    )
    module: Any = ModuleType("wandb")
    module.__version__, module.run, module.Table, module.Artifact = "1.0", run, Table, Artifact
    printer: Any = ModuleType("wandb.sdk.lib.printer")
    printer.new_printer = object
    for name in ("wandb", "wandb.sdk", "wandb.sdk.lib"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, printer.__name__, printer)
    return logged


@pytest.mark.parametrize("model", ["fairkv", "hf"])
def test_wandb_takes_every_kind_of_task(model: str, folder: Path, wandb: dict[str, Any]) -> None:
    """With `hf` no sample has a keep rate, and each task's metric_list names some."""
    results = evaluate(folder, ["guides", *DEMOS], model, gen_kwargs={"max_gen_toks": 3})
    logger = WandbLogger()
    logger.post_init(results)
    logger.log_eval_result()
    logger.log_eval_samples(results["samples"])
    assert {"guide_a_eval_results", *(f"{task}_eval_results" for task in DEMOS)} <= wandb.keys()
    assert len(wandb["sys_ifeval_demo_eval_results"]) == 2
    if model == "hf":
        assert "prompts" not in results["samples"]["guide_a"][0]


@pytest.fixture
def written(folder: Path, tmp_path: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """A result file and the samples beside it, as `lm_eval --log_samples` writes them."""
    tracker = EvaluationTracker(str(tmp_path))
    results = evaluate(folder, ["pick", "some", "guides"], evaluation_tracker=tracker)
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    (path,) = tmp_path.glob("*/results_*.json")
    lines = {
        task: [json.loads(line) for line in next(path.parent.glob(f"samples_{task}_*")).read_text().splitlines()]
        for task in results["configs"]
    }
    return json.loads(path.read_text()), lines


def test_zeno_finds_what_it_reads(written: tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]) -> None:
    """What the harness's scripts/zeno_visualize.py reads of files."""
    result, lines = written
    for task, config in result["configs"].items():
        for sample in lines[task]:
            assert all(entry["metric"] in sample for entry in config["metric_list"])
            assert isinstance(sample["arguments"]["gen_args_0"]["arg_0"], str)
            assert sample["filtered_resps"][0] and {"doc_id", "target"} <= sample.keys()


def test_files_have_a_template_if_one_was_applied(
    written: tuple[dict[str, Any], Any], folder: Path, tmp_path: Path
) -> None:
    result, _ = written
    assert result["chat_template"] == tiny.CHATML
    assert result["chat_template_sha"] == hashlib.sha256(tiny.CHATML.encode()).hexdigest()
    assert result["config"]["fairkv"]["chat_template_by"] == "document"
    without = evaluate(folder, ["pick"])
    assert "chat_template" not in without
    silent = evaluate(folder, ["guide_a"], log_samples=False)
    assert silent["chat_template"] == tiny.CHATML


def test_the_harness_s_own_template_stays_its_own(folder: Path, tmp_path: Path) -> None:
    tracker = EvaluationTracker(str(tmp_path))
    results = evaluate(folder, ["guide_a"], apply_chat_template=True, evaluation_tracker=tracker)
    name_results(tracker.general_config_tracker, results)
    assert tracker.general_config_tracker.chat_template == tiny.CHATML
    assert "chat_template_by" not in results["config"]["fairkv"]


@pytest.mark.parametrize("arguments", ["press=tova,ratio=0.5", {"press": "tova"}, {}, None])
def test_the_default_model_names_its_folder(arguments: Any) -> None:
    config = EvaluationTracker().general_config_tracker
    config.log_experiment_args("fairkv", arguments or "", None, None, False)
    name_results(config, {"config": {"model_args": arguments, "fairkv": {}}})
    assert config.model_name == HUB_NAME
    assert config.model_name_sanitized == "HuggingFaceTB__SmolLM2-135M-Instruct"


@pytest.mark.parametrize("arguments", ["pretrained=a/b,press=tova", {"pretrained": "a/b"}])
def test_other_models_keep_the_harness_s_name(arguments: Any) -> None:
    config = EvaluationTracker().general_config_tracker
    config.log_experiment_args("fairkv", arguments, None, None, False)
    name_results(config, {"config": {"model_args": arguments, "fairkv": {}}})
    assert config.model_name_sanitized == "a__b"
    config.log_experiment_args("hf", "", None, None, False)
    name = config.model_name
    name_results(config, {"config": {"model_args": ""}})
    assert config.model_name == name


def test_published_samples_keep_hashes_and_ranges_and_no_text(every_kind: dict[str, Any]) -> None:
    for sample in every_kind["samples"]["guide_a"]:
        (prompt,), (published,) = sample["prompts"], published_sample(sample)["prompts"]
        assert published == {name: value for name, value in prompt.items() if name != "text"}
        assert sample["doc"]["question"] not in json.dumps(published_sample(sample))


def test_extending_twice_is_extending_once() -> None:
    extended = explaining(lambda lm: {"results": {}})
    assert explaining(extended) is extended
    assert extended(object()) == {"results": {}}
    assert explanations.explaining(evaluator.evaluate) is evaluator.evaluate
