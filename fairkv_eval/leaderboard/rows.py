"""The rows of a leaderboard: their fields are the keys of its JSON and page, and the columns of its CSV.

Metadata of a field: ``columns``, () for none in the CSV; ``entry`` or ``keys``, parts of a value with a column each;
``optional``, left out of the JSON if it is None; ``spliced``, its items stand among those of its entry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

from fairkv_eval.eviction.policy_arguments import ARGUMENTS

_POLICY = ("press", "base", *(argument.name for argument in ARGUMENTS))
_PLAIN = (str, int, float, type(None))
_NO_COLUMN: dict[str, Any] = {"columns": ()}


@dataclass(frozen=True, slots=True)
class CorrectedDifference:
    """The mean of paired differences over n documents, its 95 % interval, and its p-value, also corrected (Holm)."""

    mean: float
    low: float
    high: float
    p: float
    p_corrected: float
    n: int


@dataclass(frozen=True, slots=True)
class MetricEntry:
    """A metric of one row and task; ``n``: the documents that have it; ``bracket``: see `brackets`."""

    value: float
    stderr: float | None
    n: int
    rank: int | None = field(metadata={"optional": True})
    bracket: tuple[int, int] | None = field(metadata={"optional": True, "columns": ()})
    vs_full: CorrectedDifference | None = field(metadata={"optional": True, "entry": CorrectedDifference})
    vs_plain: CorrectedDifference | None = field(metadata={"optional": True, "entry": CorrectedDifference})


@dataclass(frozen=True)
class TaskEntry:
    """One row's result of a task: metrics, costs and origin. ``file`` and ``command`` hold no paths of a machine.

    ``held``: the measured bytes as a share of the full cache's.
    """

    metrics: Mapping[str, MetricEntry] = field(metadata=_NO_COLUMN)
    documents: int
    limit: float | None
    achieved_ratio: float | None
    answers_cut: int | None
    kv_bytes_full: float | None
    kv_bytes_kept: float | None
    held: float | None
    tokens_per_second: Mapping[str, float] = field(metadata={"keys": ("prefill", "decode")})
    conditions: Mapping[str, Any] = field(metadata=_NO_COLUMN)
    versions: Mapping[str, str] = field(metadata=_NO_COLUMN)
    date: str | None
    commit: str | None
    file: str
    cell: str | None
    command: str


@dataclass(frozen=True, slots=True)
class Average:
    """A mean over tasks, and its standard error if every task has one."""

    value: float
    stderr: float | None


@dataclass(frozen=True)
class Row:
    """One model and policy. ``variant``: what sets it apart from rows of the same model and policy.

    ``policy``: its label. ``described``: what `Policy.describe` says, one item per argument. ``held``: the mean over
    tasks. ``averages``: by aspect, and over all of them (see `aspects`).
    """

    id: str = field(metadata=_NO_COLUMN)
    model: str
    model_sha: str | None = field(metadata=_NO_COLUMN)
    source: str
    policy: str
    variant: str
    press_name: str = field(metadata=_NO_COLUMN)
    settings: list[str] = field(metadata=_NO_COLUMN)
    described: Mapping[str, Any] = field(metadata={"spliced": True, "keys": _POLICY})
    segments: str | None = field(metadata=_NO_COLUMN)
    scope: str | None = field(metadata=_NO_COLUMN)
    full_cache: bool = field(metadata=_NO_COLUMN)
    conditions: Mapping[str, Any] = field(metadata=_NO_COLUMN)
    held: float | None
    averages: Mapping[str, Average] = field(metadata=_NO_COLUMN)
    tasks: Mapping[str, TaskEntry] = field(metadata=_NO_COLUMN)


@dataclass(frozen=True)
class TaskSummary:
    """A task of the board; ``metrics``: each with whether higher is better, None for neither.

    ``explanation``: what the task asks; "" for one that is not ours. ``notes``: what its metrics mean, as far as known.
    """

    version: Any
    documents: int
    metrics: Mapping[str, bool | None]
    main_metric: str | None
    explanation: str
    notes: Mapping[str, str]


@dataclass(frozen=True)
class Omission:
    """A file, or one task of it, that is not on the board."""

    file: str
    reason: str


def columns(kind: type) -> list[str]:
    """The columns of the CSV that an entry of this kind fills, in the order of its fields."""
    return [column for f in fields(kind) for column in _columns(f)]


def cells(entry: Any) -> dict[str, Any]:
    """{column: value} of an entry; the columns of a part that it lacks are missing."""
    row: dict[str, Any] = {}
    for f, names in _layout(entry.__class__):
        if not names:
            continue
        value = getattr(entry, f.name)
        if "entry" in f.metadata:
            parts = list(cells(value).values()) if value else []
        elif "keys" in f.metadata:
            parts = [value.get(key) for key in f.metadata["keys"]]
        else:
            parts = [value]
        row |= zip(names, map(_cell, parts), strict=False)
    return row


@cache
def _layout(kind: type) -> tuple[tuple[Field[Any], tuple[str, ...]], ...]:
    """The fields of a kind of entry, each with its columns."""
    return tuple((f, tuple(_columns(f))) for f in fields(kind))


def _cell(value: Any) -> Any:
    return "+".join(value) if isinstance(value, list) else plain(value)


def _columns(f: Field[Any]) -> Iterable[str]:
    if "entry" in f.metadata:
        return [f"{f.name}_{column}" for column in columns(f.metadata["entry"])]
    if "keys" in f.metadata:
        return [key if f.metadata.get("spliced") else f"{key}_{f.name}" for key in f.metadata["keys"]]
    return f.metadata.get("columns", (f.name,))


def plain(value: Any) -> Any:
    """The value as JSON has it: an entry is an object; None stands for NaN and infinities, which JSON lacks."""
    if isinstance(value, _PLAIN):
        return None if isinstance(value, float) and not math.isfinite(value) else value
    if is_dataclass(value) and not isinstance(value, type):
        return _object(value)
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value


def _object(entry: Any) -> dict[str, Any]:
    items: dict[str, Any] = {}
    for f, _ in _layout(entry.__class__):
        value = plain(getattr(entry, f.name))
        if f.metadata.get("spliced"):
            items |= value
        elif value is not None or not f.metadata.get("optional"):
            items[f.name] = value
    return items
