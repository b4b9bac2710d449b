"""The keys of a declared task's YAML: those that declare it, and those of the harness that go with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lm_eval.config.task import TaskConfig

from fairkv_eval.errors import UsageError, unknown

DECLARATIONS = ("data", "system", "user", "messages", "segments", "context", "secret", "metrics")
# Keys of the harness that would make the prompt or the documents, which are declared here.
REPLACED = (
    *("dataset_path", "dataset_name", "custom_dataset", "process_docs", "process_results"),
    *("doc_to_text", "description", "test_split", "validation_split", "training_split", "fewshot_split", "gen_prefix"),
)


def _all(kind: type, value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, kind) for entry in value)


OUTPUT_TYPES = ("generate_until", "multiple_choice", "loglikelihood")  # that have a prompt
# The kinds of keys that are read here, before the harness sees them.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "generation_kwargs": (lambda value: isinstance(value, dict), "a mapping"),
    "metadata": (lambda value: isinstance(value, dict), "a mapping"),
    "metric_list": (lambda value: _all(dict, value), "a list of mappings"),
    "metrics": (lambda value: isinstance(value, str) or _all(str, value), "a name or a list of names"),
    "doc_to_choice": (
        lambda value: isinstance(value, (str, list, dict)) or callable(value),
        "a list, a field or a text",
    ),
}


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise UsageError for a key that does not exist or does not go with the others, or a value of another kind."""
    allowed = set(TaskConfig.__dataclass_fields__) - set(REPLACED) | set(DECLARATIONS) | {"class"}
    for key in config:
        if key in REPLACED:
            raise UsageError(f"{key} does not go with a declared task: its data and messages are declared")
        if key not in allowed:
            raise unknown("key", key, allowed)
    if "data" not in config:
        raise UsageError("a declared task needs data:")
    if config.get("output_type", OUTPUT_TYPES[0]) not in OUTPUT_TYPES:
        raise unknown("output_type", config["output_type"], OUTPUT_TYPES)
    for key, (fits, kind) in KINDS.items():
        if config.get(key) is not None and not fits(config[key]):
            raise UsageError(f"{key}={config[key]!r} is not allowed; it takes {kind}")
