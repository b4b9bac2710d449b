"""The options of a builder among a task's metadata, and which other names may stand there.

The harness calls a builder with the YAML's `metadata`, into which it merges the model's arguments, ``--metadata`` and a
key of its own (`lm_eval.config.evaluate_config`, `lm_eval.tasks._factory`). So a name is an option, a key of the
harness, or an argument of a model. Anything else is a mistake, and none is ignored.
"""

from __future__ import annotations

import ast
import functools
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from fairkv_eval.documents.choice import Choice
from fairkv_eval.documents.design import Design
from fairkv_eval.errors import UsageError, unknown

HARNESS = {"version", "description", "config_source", "_metadata"}
MODEL_ARGUMENTS = "model_arguments"  # names of arguments that a model passes on, which the harness does not list

log = logging.getLogger(__name__)


def options(
    metadata: Mapping[str, Any], kind: type[Choice] | type[Design] | None = None, unread: Collection[str] = ()
) -> dict[str, Any]:
    """The options of a builder that takes those of ``kind``, None for none, without those that it does not read.

    UsageError for a name that is neither an option, nor a key of the harness, nor an argument of a model. An option of
    another builder of this package is reported and left out, since --metadata goes to all tasks of a run.
    """
    names = set(kind.__dataclass_fields__) - set(unread) if kind else set()
    foreign = {*Choice.__dataclass_fields__, *Design.__dataclass_fields__} - names
    for name in metadata:
        if name in names | HARNESS | {MODEL_ARGUMENTS} or name in _of_models(metadata):
            continue
        if name in foreign:
            log.warning("metadata %s=%r is an option of other tasks; this one lacks it", name, metadata[name])
        else:
            raise UsageError(
                f"{unknown('metadata', name, names)} If it is an argument that the model passes on, name it in "
                f'--metadata \'{{"{MODEL_ARGUMENTS}": ["{name}"]}}\'.'
            )
    return {name: value for name, value in metadata.items() if name in names}


def _of_models(metadata: Mapping[str, Any]) -> set[str]:
    """The names of models' arguments: those that the harness's models and ours list, and those the user lists."""
    listed = metadata.get(MODEL_ARGUMENTS) or []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise UsageError(f"{MODEL_ARGUMENTS}={listed!r} is not allowed; it takes a list of names")
    return _of_the_harness() | _of_fairkv(metadata) | set(listed)


@functools.cache
def _of_the_harness() -> set[str]:
    """The arguments of every model's constructor, from the source: importing all models needs what is not installed."""
    import lm_eval.models

    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in Path(lm_eval.models.__path__[0]).glob("*.py"))
    return {
        argument.arg
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    }


def _of_fairkv(metadata: Mapping[str, Any]) -> set[str]:
    """The arguments of fairkv, which the harness finds by name as it does its own models, and of the named press."""
    from lm_eval.api.registry import get_model

    try:
        model = get_model("fairkv")
    except (KeyError, ValueError):  # not registered, so the model is another one
        return set()
    names: set[str] = model.__init__.argument_names(metadata)
    return names
