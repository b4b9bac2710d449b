"""A model's arguments: sorted, shown in its signature, and refused before anything is loaded."""

from __future__ import annotations

import inspect

import pytest

from fairkv_eval.errors import UsageError
from fairkv_eval.harness.settings import Settings, defaults
from fairkv_eval.model import FairKV


def test_arguments_go_to_those_who_take_them() -> None:
    typed = {"press": "snapkv", "window": 8, "ratio": 0.5, "scope": "prompt", "kv_memory": 2, "dtype": "float32"}
    settings = Settings.of(typed)
    assert settings.policy.press_name == "snapkv" and dict(settings.policy.parameters)["window"] == 8
    assert settings.prompts.scope == "prompt" and settings.kv_memory == 2
    assert settings.hf == {"dtype": "float32"}
    assert typed["scope"] == "prompt", "what was typed stays as it was"


def test_help_shows_every_argument_with_its_default() -> None:
    parameters = inspect.signature(FairKV).parameters
    assert {"press", "keep_text", "segments", "max_prefill_tokens"} <= defaults().keys()
    assert {name: parameters[name].default for name in defaults()} == defaults()
    assert next(iter(parameters)) == "pretrained" and [*parameters][-1] == "arguments"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("raito", 0.5, "unknown model argument 'raito'. Did you mean 'ratio'"),
        ("widnow", 8, "unknown model argument 'widnow'"),
        ("max_prefill_tokens", 0, "max_prefill_tokens=0 is not allowed; it takes a whole number from 1"),
        ("kv_memory", -1, "kv_memory=-1 is not allowed"),
        ("scope", "promt", "unknown scope 'promt'. Did you mean 'prompt'"),
    ],
)
def test_a_wrong_argument_is_named(name: str, value: object, error: str) -> None:
    with pytest.raises(UsageError, match=error):
        Settings.of({name: value})
