"""The models of a sweep: their arguments, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fairkv_eval.errors import UsageError, naming
from fairkv_eval.eviction.policy_arguments import NAMES
from fairkv_eval.harness.settings import Settings
from fairkv_eval.sweep.parsers import mapping

# Arguments that a sweep has one value of, by its key.
_SHARED = {"batch_size": "batch_size", "device": "device", "max_batch_size": "batch_size"}


def models_of(models: Any, model_args: Any) -> Iterator[dict[str, Any]]:
    """The arguments of each model: a name, or a mapping. ``model_args``: those that all models share."""
    shared = mapping("model_args", model_args) if model_args is not None else {}
    entries = [{}] if models is None else models if isinstance(models, list) else [models]
    if not entries:
        raise UsageError("models is empty; leave it out for the default model")
    for entry in entries:
        is_name = isinstance(entry, str) and "=" not in entry
        arguments = {**shared, **({"pretrained": entry} if is_name else mapping("models", entry))}
        _check(arguments)
        yield arguments


def _check(arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for an argument that fairkv would refuse when the model is loaded, or that is not a model's."""
    for name in NAMES:
        if name in arguments:
            raise UsageError(f"{name}={arguments[name]!r} is not an argument of a sweep's model; it goes under presses")
    for name, key in _SHARED.items():
        if name in arguments:
            raise UsageError(f"{name}={arguments[name]!r} goes beside the model's arguments: {key}: …")
    with naming("model arguments"):
        Settings.of(arguments)
