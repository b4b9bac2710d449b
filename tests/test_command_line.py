"""Command lines: the harness reads back what was written."""

from __future__ import annotations

import argparse
import shlex
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from lm_eval._cli.utils import MergeDictAction

from fairkv_eval.command_line import command_line

scalars = st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False) | st.text(max_size=8)
names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)


def read(line: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    for name in ("model", "tasks", "seed", "limit"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--model_args", nargs="+", action=MergeDictAction)
    parser.add_argument("--apply_chat_template", nargs="?", const=True)
    command, *words = shlex.split(line)
    assert command == "lm_eval"
    return vars(parser.parse_args(words))


@given(st.dictionaries(names, scalars | st.lists(scalars, max_size=3), min_size=1))
@example({"keep": "5", "keep_text": "True", "press": "kvpress:KnormPress", "fair": True, "ratio": 0.5})
@example({"press": "tova", "ratio": 0.1, "pretrained": "org/a-model_1.2"})
def test_model_arguments_are_read_as_they_are(arguments: dict[str, Any]) -> None:
    assert read(command_line("fairkv", arguments, "a_task"))["model_args"] == arguments


def test_plain_values_are_not_json() -> None:
    line = command_line("hf", {"pretrained": "a/b", "ratio": 0.5, "fair": True}, "a,b", limit=8.0)
    assert line == "lm_eval --model hf --model_args pretrained=a/b,ratio=0.5,fair=true --tasks a,b --limit 8"


def test_what_is_the_default_is_left_out() -> None:
    line = command_line(
        "fairkv", {}, "a", limit=None, gen_kwargs={}, apply_chat_template=False, seed=(0, 1234, 1234, 1234)
    )
    assert line == "lm_eval --model fairkv --tasks a"
    assert read(command_line("fairkv", {}, "a", apply_chat_template=True))["apply_chat_template"] is True
    assert read(command_line("fairkv", {}, "a", apply_chat_template="a b"))["apply_chat_template"] == "a b"
    assert read(command_line("fairkv", {}, "a", seed=[7, 1234, 1234, 1234]))["seed"] == "7,1234,1234,1234"
