"""The command that runs a record again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from fairkv_eval.eviction.policy_arguments import NAMES
from fairkv_eval.results.record import Record

_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:+-")
# The harness's own defaults, which need not be said.
_DEFAULTS = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}


def command(record: Record) -> str:
    """The ``lm_eval`` command line for this task under this policy; local models by name, without a machine's paths."""
    given = record.arguments
    told = (given.get("fairkv") or {}).get("command")  # a sweep knows it
    if isinstance(told, str):
        return told
    words = ["lm_eval", "--model", record.source, "--model_args", _joined(_model_args(record)), "--tasks", record.task]
    if not words[4]:
        del words[3:5]
    if given.get("num_fewshot"):
        words += ["--num_fewshot", str(given["num_fewshot"])]
    if given.get("limit") is not None:
        words += ["--limit", f"{given['limit']:g}"]
    if given.get("batch_size") is not None:
        words += ["--batch_size", str(given["batch_size"])]
    if given.get("gen_kwargs"):
        words += ["--gen_kwargs", _joined(given["gen_kwargs"])]
    seeds = [given.get(name, default) for name, default in _DEFAULTS.items()]
    if seeds != list(_DEFAULTS.values()):
        words += ["--seed", ",".join(map(str, seeds))]
    if len(str(dict(record.conditions).get("chat", ""))) == 64:  # a template's digest: the harness rendered it
        words.append("--apply_chat_template")
    return shlex.join(words)


def _model_args(record: Record) -> dict[str, Any]:
    typed = {name: _nameless(value) for name, value in record.arguments["model_args"].items()}
    if record.source != "fairkv":
        return typed
    policy = record.policy.arguments()
    if "press" in typed:  # what was not typed is the press's default
        defaults = dict(record.policy.parameters).keys() - typed
        policy = {name: value for name, value in policy.items() if name not in defaults}
    others = {name: value for name, value in typed.items() if name not in NAMES and name not in policy}
    return {**others, **policy}


def _nameless(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _joined(arguments: dict[str, Any]) -> str:
    """``a=1,b=2`` as the harness reads it, or JSON where a value would be read as something else."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in arguments.items()}
    if all(isinstance(v, (str, int, float)) and set(texts[n]) <= _PLAIN for n, v in arguments.items()):
        return ",".join(f"{name}={text}" for name, text in texts.items())
    return json.dumps(arguments, ensure_ascii=False)
