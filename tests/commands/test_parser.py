"""One style of options: anywhere on the line, lists joined by commas, one name for a thing, examples in every help."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import pytest

from fairkv_eval.cli import main
from fairkv_eval.commands import SUMMARIES
from fairkv_eval.commands.parser import module_of, parser_of
from fairkv_eval.errors import DataError, RequestError, UsageError

YAML = "presses: [tova]\ntasks: [x]\noutput_path: out\n"
# One thing has one name. The left ones were used once, or are what people try.
FORMER = {
    "--output": "--output_path",
    "--task": "--tasks",
    "--includepath": "--include_path",
    "--max-drop": "--max_drop",
}


def read(name: str, *words: str) -> argparse.Namespace:
    return parser_of(name).read(words)


def swept(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[str | None, dict[str, Any]]:
    """The YAML and the flags that a sweep of this command line is read from."""
    seen: list[Any] = []
    monkeypatch.setattr("fairkv_eval.sweep.config.read_sweep", lambda *args: seen.append(args))
    monkeypatch.setattr("fairkv_eval.sweep.estimate.dry_run", lambda sweep: [])
    assert main(["sweep", *words, "--dry_run"]) == 0
    return seen[0]


@pytest.mark.parametrize(
    "words",
    [
        ("a.yaml", "--ratios", "0,0.3", "--dry_run", "--limit", "2"),
        ("--ratios", "0,0.3", "a.yaml", "--dry_run", "--limit", "2"),
        ("--ratios", "0,0.3", "--dry_run", "a.yaml", "--limit", "2"),
        ("--ratios", "0", "--ratios", "0.3", "--limit", "2", "--dry_run", "a.yaml"),
    ],
)
def test_flags_stand_before_or_after_the_yaml(words: tuple[str, ...]) -> None:
    args = read("sweep", *words)
    assert (args.sweep, args.ratios, args.limit, args.dry_run) == (["a.yaml"], ["0", "0.3"], 2, True)


def test_names_of_tasks_stand_around_options() -> None:
    args = read("tasks", "a", "--check", "b", "--limit", "3", "c")
    assert (args.task, args.check, args.limit) == (["a", "b", "c"], True, 3)


@pytest.mark.parametrize("words", [("--apply_chat_template", "{yaml}"), ("{yaml}", "--apply_chat_template")])
def test_a_template_swallows_no_yaml(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(YAML)
    assert swept(monkeypatch, *(word.format(yaml=path) for word in words)) == (str(path), {"apply_chat_template": True})


def test_a_list_by_blanks_is_refused_and_says_how(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    for words in (["0", "0.3", str(tmp_path / "a.yaml")], ["0", str(tmp_path / "a.yaml"), "0.3"]):
        assert main(["sweep", "--ratios", *words]) == 2
        err = capsys.readouterr().err
        assert "'0.3' is one word too many" in err and "--ratios 0,0.3" in err and err.count("\n") == 1


def test_parameters_belong_to_the_press_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "tova, snapkv,window=16,kernel=3,press=adakv,base=knorm,mine.yaml,part=1"
    _, flags = swept(monkeypatch, "--presses", text, "--seed", "7")
    presses = ["tova", "snapkv,window=16,kernel=3", "press=adakv,base=knorm", "mine.yaml,part=1"]
    assert flags == {"presses": presses, "seed": 7}


def test_an_empty_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "x", "--tasks", "a,,b"]) == 2
    assert "'a,,b' has an empty part" in capsys.readouterr().err


@pytest.mark.parametrize("name", SUMMARIES)
def test_options_have_underscores_and_no_former_name(name: str) -> None:
    options = re.findall(r"--[\w-]+", parser_of(name).format_help().partition("\nexamples:")[0])
    assert not [option for option in options if "-" in option[2:] or option in FORMER]


@pytest.mark.parametrize(
    "words, meant",
    [
        (["publish", "x", "--output", "y"], "--output_path"),
        (["figures", "x", "--task", "y"], "--tasks"),
        (["recommend", "x", "--max-drop", "0.1"], "--max_drop"),
        (["breakdown", "x", "--metric", "leak@0.3"], "--metrics"),
        (["view", "x", "--model_arg", "y"], "--model_args"),
        (["sweep", "--pres", "tova"], "--presses"),
    ],
)
def test_a_name_cut_short_is_refused_with_the_whole_one(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert f"Did you mean '{meant}'?" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", SUMMARIES)
def test_every_help_ends_with_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name, "--help"])
    examples = capsys.readouterr().out.partition("\nexamples:\n")[2].split("\n")
    assert [example.strip() for example in examples if example] == list(module_of(name).EXAMPLES)
    for example in module_of(name).EXAMPLES:
        words = example.partition(" > ")[0].split()
        assert words[:2] == ["fairkv", name]
        read(name, *words[2:])


@pytest.mark.parametrize("kind, status", [(UsageError, 2), (DataError, 2), (RequestError, 1)])
def test_each_error_of_ours_is_one_line(
    kind: type[Exception], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> None:
        raise kind("the file\nis damaged")

    monkeypatch.setattr("fairkv_eval.commands.presses.run", fail)
    assert main(["presses"]) == status
    assert capsys.readouterr().err == "fairkv: the file is damaged\n"
