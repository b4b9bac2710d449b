"""What a declared task is scored against: the harness's doc_to_target and doc_to_choice, checked for every row.

The harness takes a text for a field's name if the rows have that field, and for the answer itself if they do not: a
misspelt name would be the answer of every document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fairkv_eval.declared.templates import compiled, fill
from fairkv_eval.errors import UsageError, naming, unknown

_LITERAL = re.compile(r"\s*\[.*\]\s*", re.DOTALL)  # which the harness evaluates


def check_targets(config: Mapping[str, Any], docs: Sequence[Mapping[str, Any]]) -> None:
    """Raise UsageError, with the row, if a target or the choices are not there in every document."""
    target, choices = config.get("doc_to_target"), config.get("doc_to_choice")
    multiple_choice = config["output_type"] == "multiple_choice"
    if multiple_choice and choices is None:
        raise UsageError("output_type multiple_choice needs doc_to_choice")
    for number, doc in enumerate(docs, start=1):
        with naming(f"row {number}"):
            value = _value("doc_to_target", target, doc)
            if multiple_choice:
                _check_choice(value, _value("doc_to_choice", choices, doc))
            elif config["output_type"] == "loglikelihood" and not value:
                raise UsageError("doc_to_target is empty, so there is nothing to score")


def _value(key: str, source: Any, doc: Mapping[str, Any]) -> Any:
    """What the harness makes of a key for a document, as far as it can be known here."""
    if not isinstance(source, str):
        return list(source.values()) if key == "doc_to_choice" and isinstance(source, Mapping) else source
    if source in doc:
        if doc[source] is None:
            raise UsageError(f"{key}: the field {source!r} is null")
        return doc[source]
    if "{" in source:
        template = compiled(source, key)
        return None if template is None else fill(template, doc, key)
    if source == "" or source.isdigit() or _LITERAL.fullmatch(source):
        return source
    error = unknown(f"field for {key}", source, doc)
    raise UsageError(f"{error} An answer of these words is {{{{ {source!r} }}}}.")


def _check_choice(target: Any, choices: Any) -> None:
    """Raise UsageError unless the target names one of the choices, by its place or its text."""
    if not isinstance(choices, list) or callable(target):
        return  # a template or a function, whose value only the harness knows
    if not choices or not all(isinstance(choice, str) and choice for choice in choices):
        raise UsageError(f"doc_to_choice: {choices!r} is not a list of texts")
    if isinstance(target, str) and target.isdigit():
        target = int(target)
    for entry in target if isinstance(target, list) else [target]:
        if isinstance(entry, bool) or not (entry in choices or (isinstance(entry, int) and 0 <= entry < len(choices))):
            raise UsageError(f"doc_to_target: {entry!r} is neither one of the choices {choices} nor the place of one")
