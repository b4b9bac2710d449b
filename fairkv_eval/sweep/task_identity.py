"""What a task's figures depend on besides its documents: its configuration, and the code of its class and functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

from lm_eval.api.task import Task
from lm_eval.utils import handle_non_serializable

from fairkv_eval.headlines import CHOICE, without_headlines
from fairkv_eval.source_digest import digest


def task_identity(task: Task) -> dict[str, Any]:
    """A task's class and configuration as plain values, with the digest of each function in its place.

    The harness's own dump has the functions' sources, in which a docstring counts and a helper does not. Left out:
    where the task's YAML is, and which metrics are printed.
    """
    config = {field.name: getattr(task.config, field.name) for field in fields(task.config)}
    config["metadata"] = {k: v for k, v in (config.get("metadata") or {}).items() if k not in ("config_source", CHOICE)}
    if config.get("metric_list"):
        config["metric_list"] = without_headlines(config["metric_list"])
    return {"class": digest([type(task)]), "config": _without_addresses(_plain(config))}


def _plain(value: Any) -> Any:
    if isinstance(value, (FunctionType, MethodType, type, partial)):
        return f"source {digest([value])}"
    if is_dataclass(value) and not isinstance(value, Mapping):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _without_addresses(value: Any) -> Any:
    """A configuration as text and numbers, without the memory addresses that Python prints for objects."""
    text = json.dumps(value, sort_keys=True, default=handle_non_serializable)
    return json.loads(re.sub(r" at 0x[0-9a-fA-F]+", "", text))
