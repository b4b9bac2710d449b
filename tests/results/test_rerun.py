"""The command that runs a record again: it says everything that was typed, and the harness reads it back."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import few_builtins
import pytest
import synthetic_results
import tiny_evaluation
from lm_eval._cli.harness import HarnessCLI
from lm_eval.config.evaluate_config import EvaluatorConfig

from fairkv_eval.results.reader import read
from fairkv_eval.results.record import Record
from fairkv_eval.results.rerun import command

TEMPLATE = {"chat_template_sha": "c" * 64}
INSTRUCTION = {"system_instruction": "Be brief: it's 'quoted'.", "system_instruction_sha": "d" * 64}
# {what differs: (changes of the result, what the harness reads in the command)}
DIFFERENCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "context_field": ({"fairkv": {"context_field": "text"}}, {"model_args": {"context_field": "text"}}),
    "fewshot_delimiter": ({"fairkv": {"fewshot_delimiter": "\n##\n"}}, {"model_args": {"fewshot_delimiter": "\n##\n"}}),
    "system_instruction": (INSTRUCTION, {"system_instruction": INSTRUCTION["system_instruction"]}),
    "fewshot_as_multiturn": (
        {**TEMPLATE, "fewshot_as_multiturn": False},
        {"apply_chat_template": True, "fewshot_as_multiturn": False},
    ),
    "include_path": ({"config_source": "/home/me/of mine/some.yaml"}, {"include_path": "of mine"}),
    "metadata": ({"metadata": {"defense": "none", "n": 3}}, {"metadata": {"defense": "none", "n": 3}}),
    "a model argument": (
        {"model_args": {"chat_template_args": {"a": 1}}},
        {"model_args": {"chat_template_args": {"a": 1}}},
    ),
    "an argument that is off": (
        {"model_args": {"enable_thinking": False}},
        {"model_args": {"enable_thinking": False}},
    ),
}


def record(folder: Path, changes: dict[str, Any]) -> Record:
    """The record of a result in which entries are changed, wherever a result has them."""
    path = synthetic_results.write(folder, press="tova", ratio=0.5)
    result = json.loads(path.read_text())
    result |= {"chat_template_sha": "c" * 64, "fewshot_as_multiturn": True} if "chat_template_sha" in changes else {}
    for name, value in changes.items():
        if name in ("fairkv", "model_args"):
            inside = result["config"] if name == "model_args" else result["config"]["fairkv"]
            (inside[name] if name == "model_args" else inside).update(value)
            result["config"]["model_args"].update(value)
        elif name in ("config_source", "metadata"):
            metadata = {name: value} if name == "config_source" else value
            result["configs"][synthetic_results.TASK]["metadata"] = metadata
        else:
            result[name] = value
    path.write_text(json.dumps(result))
    (found,) = read(folder).records
    return found


def parsed(line: str, monkeypatch: pytest.MonkeyPatch) -> EvaluatorConfig:
    """A command as the harness's own parser reads it."""
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    return EvaluatorConfig.from_cli(HarnessCLI().parse_args())


@pytest.mark.parametrize("what", DIFFERENCES)
def test_a_difference_is_another_record_and_is_in_its_command(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, expected = DIFFERENCES[what]
    plain = record(tmp_path / "plain", TEMPLATE if "chat_template_sha" in changes else {})
    other = record(tmp_path / "other", changes)
    assert what == "metadata" or (other.run, other.policy) != (plain.run, plain.policy)  # its documents tell
    config = parsed(command(other), monkeypatch)
    for name, value in expected.items():
        typed = getattr(config, name)
        assert value == ({key: typed[key] for key in value} if isinstance(value, dict) else typed)


def test_tasks_of_one_name_from_two_folders_are_two(tmp_path: Path) -> None:
    records = []
    for name in ("a", "b"):
        path = synthetic_results.write(tmp_path / name, press="tova", ratio=0.5)
        result = json.loads(path.read_text())
        config = result["configs"][synthetic_results.TASK]
        config |= {"metadata": {"config_source": f"/home/me/{name}/some.yaml"}, "description": name}
        path.write_text(json.dumps(result))
        records += read(path).records
    assert records[0].run != records[1].run


@pytest.mark.parametrize(
    "typed",
    [
        ["--system_instruction", "Be brief: it's 'quoted'."],
        ["--apply_chat_template", "--fewshot_as_multiturn", "false"],
    ],
)
def test_a_run_is_run_again_by_its_command(
    typed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the folder of the task and that of the model in the working directory."""
    few_builtins.patch(monkeypatch)
    tiny_evaluation.write_tasks(tmp_path / "of mine")
    (tmp_path / "model").symlink_to(tmp_path / "of mine" / "model")
    monkeypatch.chdir(tmp_path)
    arguments = {"pretrained": str(tmp_path / "model"), "dtype": "float32", "press": "tova", "ratio": 0.5}
    arguments |= {"context_field": "text", "fewshot_delimiter": "\n##\n", "truncation": True}
    first = ["--model", "fairkv", "--model_args", json.dumps(arguments), "--tasks", "some"]
    first += ["--include_path", str(tmp_path / "of mine"), "--limit", "2", "--seed", "1,2,3,4", *typed]

    def run(argv: list[str], output: str) -> Record:
        more = ["--output_path", output, "--log_samples", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["lm_eval", *argv, *more])
        cli = HarnessCLI()
        cli.execute(cli.parse_args())
        (found,) = read(output).records
        return found

    before = run(first, "first")
    line = command(before)
    assert str(tmp_path) not in line
    after = run(shlex.split(line)[1:], "second")
    assert after.identity is not None and (after.run, after.policy) == (before.run, before.policy)
    assert command(after) == line
