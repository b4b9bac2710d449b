"""Names in a task's metadata: options of its builder, keys of the harness, arguments of a model, and nothing else."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from fairkv_eval import plugin
from fairkv_eval.documents import demo, raccoon, sys_ifeval, sys_multi
from fairkv_eval.documents.choice import Choice
from fairkv_eval.documents.design import Design
from fairkv_eval.documents.metadata import options
from fairkv_eval.errors import UsageError

BUILDERS = [
    demo.raccoon_demo,
    demo.sys_ifeval_demo,
    raccoon.raccoon,
    raccoon.raccoon_gpts,
    raccoon.raccoon_preference,
    sys_ifeval.sys_ifeval,
    sys_multi.sys_multi,
]
# As `--model fairkv` has them: of hf, of ours, of from_pretrained, of the press that is named.
OURS = {"pretrained": "x", "dtype": "float32", "ratio": 0.5, "scope": "auto", "low_cpu_mem_usage": True}


@pytest.fixture(autouse=True)
def registered() -> None:
    plugin.install()


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("name", ["promts", "num_promts", "sed", "anything"])
def test_a_name_that_nothing_reads_is_refused(builder: Any, name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown metadata '{name}'.*model_arguments"):
        builder(**{"version": 1.0, "config_source": "inline", name: 25})


def test_the_nearest_option_is_named() -> None:
    with pytest.raises(UsageError, match=r"unknown metadata 'promts'. Did you mean 'prompts'\? Allowed: ask,"):
        options({"promts": 25}, Design)


@pytest.mark.parametrize(
    "others",
    [
        OURS | {"press": "snapkv", "window": 16},
        OURS | {"press": "adakv", "base": "streaming_llm", "sinks": 4, "safeguard": 0.1},
        {"pretrained": "x", "tensor_parallel_size": 2, "data_parallel_size": 2},  # vllm
        {"model": "x", "base_url": "http://x", "num_concurrent": 4},  # an API
        {"enforce_eager": True, "model_arguments": ["enforce_eager"]},
        {"version": 1.0, "config_source": "inline", "_metadata": 3},
    ],
)
def test_arguments_of_models_and_keys_of_the_harness_are_left_to_them(others: dict[str, Any]) -> None:
    assert options({"prompts": 25, **others}, Design) == {"prompts": 25}


def test_a_parameter_of_another_press_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown metadata 'window'"):
        options({"press": "knorm", "window": 16}, Design)


def test_names_of_a_model_are_a_list() -> None:
    with pytest.raises(UsageError, match="model_arguments='x' is not allowed; it takes a list of names"):
        options({"y": 1, "model_arguments": "x"}, Design)


def test_an_option_of_other_tasks_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """--metadata goes to every task of a run, so a run of two kinds of tasks may name options of both."""
    with caplog.at_level(logging.WARNING):
        assert options({"prompts": 25, "num_prompts": 3}, Choice) == {"num_prompts": 3}
    assert "metadata prompts=25 is an option of other tasks" in caplog.text


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("builder", BUILDERS[2:6])
def test_a_builder_takes_the_options_that_it_reads(builder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which it reads is seen by watching it; of the others it says that it lacks them."""
    read: set[str] = set()
    check, get = Choice.__post_init__, Choice.__getattribute__

    def checked(self: Choice) -> None:
        check(self)
        read.clear()

    def watched(self: Choice, name: str) -> Any:
        read.add(name)
        return get(self, name)

    monkeypatch.setattr(Choice, "__post_init__", checked)
    monkeypatch.setattr(Choice, "__getattribute__", watched)
    unread_options: list[set[str]] = []
    module = sys_ifeval if builder is sys_ifeval.sys_ifeval else raccoon
    monkeypatch.setattr(
        module, "options", lambda metadata, kind, unread: unread_options.append(set(unread)) or metadata
    )
    builder(system_prompts=2) if module is raccoon else builder(num_prompts=2)
    assert set(Choice.__dataclass_fields__) - unread_options[0] == read & set(Choice.__dataclass_fields__)
