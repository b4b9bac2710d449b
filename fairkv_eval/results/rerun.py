"""The command that runs a record again."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from fairkv_eval.prompts.whitelist import TEXT, literals
from fairkv_eval.results.record import Cell, Record

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
    given = {name: _nameless(value) for name, value in record.arguments["model_args"].items()}
    if record.source != "fairkv":
        return given
    own = _policy(record.policy)
    return {**{n: v for n, v in given.items() if n not in own and n not in Cell.__dataclass_fields__}, **own}


def _policy(cell: Cell) -> dict[str, Any]:
    """A policy as model arguments, without what is as usual."""
    if cell.press == "none":
        return {}
    names = "+".join(entry for entry in cell.keep if not entry.startswith(TEXT))
    texts = list(literals(cell.keep))
    said = {
        "press": cell.press,
        "base": cell.base,
        **dict(cell.parameters),
        "ratio": cell.ratio or None,
        "budget": cell.budget,
        "fair": cell.fair or None,
        "keep": names or None,
        "keep_text": (texts[0] if len(texts) == 1 else texts) or None,
        "positions": cell.positions if cell.positions != "original" else None,
        "decode_budget": cell.decode_budget,
        "decode_every": cell.decode_every,
        "segments": cell.segments if cell.segments != "auto" else None,
        "scope": cell.scope if cell.scope != "auto" else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _nameless(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _joined(arguments: dict[str, Any]) -> str:
    """``a=1,b=2`` as the harness reads it, or JSON where a value would be read as something else."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in arguments.items()}
    if all(isinstance(v, (str, int, float)) and set(texts[n]) <= _PLAIN for n, v in arguments.items()):
        return ",".join(f"{name}={text}" for name, text in texts.items())
    return json.dumps(arguments, ensure_ascii=False)
