"""The command that runs a record again."""

from __future__ import annotations

from typing import Any

from fairkv_eval.command_line import SEEDS, command_line
from fairkv_eval.eviction.policy_arguments import NAMES
from fairkv_eval.provenance import nameless
from fairkv_eval.results.record import Record

_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


def command(record: Record) -> str:
    """The ``lm_eval`` command line for this task under this policy; local models by name, without a machine's paths."""
    run = record.arguments
    stored = (run.get("fairkv") or {}).get("command")  # by a sweep
    if isinstance(stored, str):
        return stored
    # The digest of a template stands for one that the harness rendered.
    applied = len(str(dict(record.conditions).get("chat", ""))) == 64
    return command_line(
        record.source,
        _model_args(record),
        record.task,
        num_fewshot=run.get("num_fewshot") or None,
        limit=run.get("limit"),
        batch_size=run.get("batch_size"),
        gen_kwargs=run.get("gen_kwargs"),
        seed=[run.get(name, default) for name, default in zip(_SEEDS, SEEDS, strict=True)],
        metadata=run.get("metadata"),
        include_path=run.get("include_path"),
        system_instruction=_instruction(record),
        apply_chat_template=applied,
        # True with a template if it is not typed, and refused without one.
        fewshot_as_multiturn="false" if applied and run.get("fewshot_as_multiturn") is False else None,
    )


def _instruction(record: Record) -> str | None:
    """The system instruction, or if a published result keeps it back, what stands for it."""
    text = record.arguments.get("system_instruction")
    digest = dict(record.conditions).get("system_instruction")
    return str(text) if text is not None else f"<not published, SHA-256 {digest}>" if digest else None


def _model_args(record: Record) -> dict[str, Any]:
    typed = {name: nameless(value) for name, value in record.arguments["model_args"].items()}
    if record.source != "fairkv":
        return typed
    policy = record.policy.arguments()
    if "press" in typed:  # what was not typed is the press's default
        defaults = dict(record.policy.parameters).keys() - typed
        policy = {name: value for name, value in policy.items() if name not in defaults}
    others = {name: value for name, value in typed.items() if name not in NAMES and name not in policy}
    return {**others, **policy}
