"""Responses that a row of the leaderboard shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fairkv_eval.analysis.all_runs import Values
from fairkv_eval.errors import UsageError
from fairkv_eval.results import samples
from fairkv_eval.results.reader import Problem
from fairkv_eval.results.record import Record

SHOWN = 3  # responses per row
_RESPONSES = frozenset(("filtered_resps", "resps"))
_LONGEST = 700  # characters of a response or prompt that is shown


def samples_of(records: Sequence[Record]) -> tuple[list[Values], list[list[tuple[str, str, str]]], list[Problem]]:
    """Per record the values by metric and document, and what is shown: (document, prompt, response)."""
    values: list[Values] = []
    shown: list[list[tuple[str, str, str]]] = []
    problems = []
    for record in records:
        try:
            lines = record.lines()
        except UsageError as error:
            problems.append(Problem(record.path, f"without paired differences: {error}"))
            lines = []
        reported = {name: metric.value for name, metric in record.metrics.items()}
        values.append(samples.by_metric(lines, reported))
        shown.append(_shown(lines))
    return values, shown, problems


def _shown(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """The first documents by their hash: the same for every policy, whatever the order of the lines."""
    first: dict[str, tuple[str, str, str]] = {}
    for document, line in sorted(zip(samples.keys(lines), lines, strict=True), key=lambda pair: pair[0]):
        if not _RESPONSES & line.keys():  # published without them
            continue
        if document not in first and len(first) < SHOWN:
            first[document] = (document, _cut(_prompt(line), from_end=True), _cut(_response(line)))
    return list(first.values())


def _prompt(line: Mapping[str, Any]) -> str:
    arguments = line.get("arguments") or {}
    first = arguments.get("gen_args_0", {}) if isinstance(arguments, dict) else {}
    return str(first.get("arg_0", ""))


def _response(line: Mapping[str, Any]) -> str:
    """The generated text; for a multiple-choice task the log-likelihood of each choice."""
    response = line.get("filtered_resps") or line.get("resps") or ""
    if isinstance(response, list) and len(response) == 1 and isinstance(response[0], str):
        return response[0]
    return response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)


def _cut(text: str, from_end: bool = False) -> str:
    if len(text) <= _LONGEST:
        return text
    return "…" + text[-_LONGEST:] if from_end else text[:_LONGEST] + "…"
