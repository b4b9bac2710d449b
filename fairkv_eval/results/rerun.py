"""The command that runs a record again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairkv_eval.command_line import SEEDS, command_line
from fairkv_eval.eviction.policy_arguments import NAMES
from fairkv_eval.results.record import Record

_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


def command(record: Record) -> str:
    """The ``lm_eval`` command line for this task under this policy; local models by name, without a machine's paths."""
    run = record.arguments
    stored = (run.get("fairkv") or {}).get("command")  # by a sweep
    if isinstance(stored, str):
        return stored
    return command_line(
        record.source,
        _model_args(record),
        record.task,
        num_fewshot=run.get("num_fewshot") or None,
        limit=run.get("limit"),
        batch_size=run.get("batch_size"),
        gen_kwargs=run.get("gen_kwargs"),
        seed=[run.get(name, default) for name, default in zip(_SEEDS, SEEDS, strict=True)],
        # The digest of a template stands for one that the harness rendered.
        apply_chat_template=len(str(dict(record.conditions).get("chat", ""))) == 64,
    )


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
