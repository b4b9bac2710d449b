"""Tasks that are not the harness's and not this package's: what their results record of them.

A task of ``--include_path`` may have any name, so its configuration tells it from another of that name. For the others
the version does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from fairkv_eval.files import resource_dir
from fairkv_eval.headlines import without_headlines
from fairkv_eval.source_text import meaning

# Where a task comes from, and what a record has elsewhere.
_APART = ("metadata", "dataset_kwargs", "num_fewshot", "generation_kwargs", "task_alias", "tag", "config_sha256")


def foreign_config_sha256(config: Mapping[str, Any]) -> str | None:
    """SHA-256 of a foreign task's configuration; None for other tasks. A published result holds it ready."""
    if _source(config) is None:
        return None
    ready = config.get("config_sha256")
    return str(ready) if ready else config_sha256(config)


def config_sha256(config: Mapping[str, Any]) -> str:
    """SHA-256 of a task's configuration as the harness dumps it; comments and docstrings of functions do not count."""
    plain = _plain({name: value for name, value in config.items() if name not in _APART})
    if plain.get("metric_list"):
        plain["metric_list"] = without_headlines(plain["metric_list"])
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode(errors="surrogatepass")).hexdigest()


def include_path(config: Mapping[str, Any]) -> str | None:
    """The ``--include_path`` of a foreign task, by its last part alone; None for other tasks."""
    source = _source(config)
    if source is None:
        return None
    return source.parent.name or f"<folder of {source.name}>"


def _source(config: Mapping[str, Any]) -> PurePath | None:
    """Where a foreign task's YAML is."""
    path = PurePath(str((config.get("metadata") or {}).get("config_source") or ""))
    parts = path.parts
    if not parts or path.suffix not in (".yaml", ".yml"):
        return None
    inside = parts[parts.index("tasks") + 1 :] if "tasks" in parts else ()
    of_harness = "lm_eval" in parts or (parts[0] == "tasks" and not _is_ours(inside))
    return None if of_harness or _is_ours(inside) else path


def _is_ours(parts: tuple[str, ...]) -> bool:
    return bool(parts) and resource_dir("tasks").joinpath(*parts).is_file()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, str) and value.lstrip().startswith(("def ", "@", "class ")):
        try:
            return meaning(value)
        except SyntaxError:
            return value
    return value
