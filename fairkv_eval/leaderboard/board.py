"""Results as a leaderboard: one row a model and policy, with every task's metrics, costs and paired differences."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fairkv_eval.analysis.all_runs import ALPHA, Comparison, Values, compare
from fairkv_eval.errors import UsageError
from fairkv_eval.leaderboard.samples import samples_of
from fairkv_eval.results.reader import Records
from fairkv_eval.results.record import Record
from fairkv_eval.results.rerun import command
from fairkv_eval.results.result_file import KIND
from fairkv_eval.results.selection import foremost

# Conditions that belong to a task; the others are the same for all tasks of a row.
_OF_TASK = ("num_fewshot", "generation")

METHOD = (
    "Differences are paired over the same documents: mean, 95 % percentile bootstrap interval over documents, "
    "two-sided sign-flip p-value; p_corrected is Holm's over all rows' differences of that kind on the task and "
    "metric. vs_full: the row minus the full cache; vs_plain: fair minus the same policy with fair=false. A rank is "
    f"1 + how many policies of the same model are better with a corrected p below {ALPHA:g}; equal ranks are ties. "
    "stderr is the harness's."
)


@dataclass(frozen=True)
class Board:
    """``data``: what leaderboard.json holds. ``prompts``: {task: {document: end of its prompt}}. ``responses``:
    {row id: {task: [(document, response)]}}, of the same documents in every row."""

    data: dict[str, Any]
    prompts: dict[str, dict[str, str]]
    responses: dict[str, dict[str, list[tuple[str, str]]]]


def build(found: Records, top: Path | None = None) -> Board:
    """The leaderboard of these results; files are named relative to ``top``. UsageError where no result is left."""
    if not found.records:
        reasons = "; ".join(f"{_named(path, top)}: {reason}" for path, reason in found.problems[:3])
        raise UsageError(f"no result of the harness was found{f' ({reasons})' if reasons else ''}")
    records = sorted(found.records, key=_order)
    values, shown, problems = samples_of(records)
    comparisons = compare(records, values)
    rows: dict[str, dict[str, Any]] = {}
    responses: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for index, (record, name) in enumerate(zip(records, _row_ids(records), strict=True)):
        row = rows.setdefault(name, _row(name, record))
        row["tasks"][record.task] = _entry(record, values[index], comparisons, index, top)
        if shown[index]:
            responses.setdefault(name, {})[record.task] = [(document, text) for document, _, text in shown[index]]
    _tell_apart(list(rows.values()))
    prompts: dict[str, dict[str, str]] = {}
    for record, lines in zip(records, shown, strict=True):
        prompts.setdefault(record.task, {}).update({document: prompt for document, prompt, _ in lines})
    left_out = [{"file": _named(p.path, top), "reason": p.reason} for p in (*found.problems, *problems)]
    data = {
        "kind": KIND,
        "method": METHOD,
        "tasks": _tasks(records),
        "rows": list(rows.values()),
        "left_out": left_out,
    }
    return Board(_finite(data), prompts, responses)


def dumped(board: Board) -> str:
    """leaderboard.json, with a line a row."""

    def on_one_line(value: Any) -> str:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)

    parts = [f'"{name}": {on_one_line(value)}' for name, value in board.data.items() if name != "rows"]
    rows = ",\n  ".join(on_one_line(row) for row in board.data["rows"])
    return "{\n" + ",\n".join([*parts, f'"rows": [\n  {rows}\n]']) + "\n}\n"


def _order(record: Record) -> tuple[Any, ...]:
    policy = record.policy
    return (
        *(record.model, record.model_sha or "", record.source, str(record.conditions), policy.press != "none"),
        *(policy.name, policy.fair, policy.ratio, policy.budget or 0, str(policy), record.task),
    )


def _row_ids(records: Sequence[Record]) -> list[str]:
    """An id for each record: equal for one model, policy and conditions, as long as its tasks differ."""
    numbers: dict[Any, int] = {}
    taken: set[tuple[Any, str]] = set()
    found = []
    for record in records:
        general = tuple(pair for pair in record.conditions if pair[0] not in _OF_TASK)
        variant = 0
        key: Any = (record.model, record.model_sha, record.source, record.policy, general, variant)
        while (key, record.task) in taken:
            variant += 1
            key = (*key[:-1], variant)
        taken.add((key, record.task))
        found.append(f"r{numbers.setdefault(key, len(numbers) + 1)}")
    return found


def _row(name: str, record: Record) -> dict[str, Any]:
    policy = record.policy
    described = {key: value for key, value in policy.describe().items() if key != "press_sha256"}
    return {
        "id": name,
        "model": record.model,
        "model_sha": record.model_sha,
        "source": record.source,
        "policy": policy.label,
        "press_name": policy.name,
        "settings": list(policy.settings()),
        **described,
        "segments": policy.segments,
        "scope": policy.scope,
        "full_cache": policy.full,
        "conditions": {name: value for name, value in record.conditions if name not in _OF_TASK},
        "tasks": {},
    }


def _tell_apart(rows: list[dict[str, Any]]) -> None:
    """``variant``: what a row says of its conditions where others have its model and policy; else empty."""
    alike: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        row["variant"] = ""
        alike.setdefault((row["model"], row["policy"]), []).append(row)
    for same in alike.values():
        told = [{"model": row["source"], "weights": (row["model_sha"] or "")[:9], **row["conditions"]} for row in same]
        names = [n for n in dict.fromkeys(n for t in told for n in t) if len({str(t.get(n)) for t in told}) > 1]
        for row, conditions in zip(same, told, strict=True):
            row["variant"] = ", ".join(f"{name}={conditions.get(name)}" for name in names)


def _entry(
    record: Record, values: Values, comparisons: Mapping[tuple[int, str], Comparison], index: int, top: Path | None
) -> dict[str, Any]:
    metrics = {}
    for name, metric in record.metrics.items():
        told = comparisons.get((index, name), Comparison())
        n = len(values[name]) if name in values else metric.n
        entry: dict[str, Any] = {"value": metric.value, "stderr": metric.stderr, "n": n}
        for kind, compared in (("vs_full", told.vs_full), ("vs_plain", told.vs_plain)):
            if compared:
                difference, corrected = compared
                entry[kind] = {**vars(difference), "p_corrected": corrected}
        if told.rank is not None:
            entry["rank"] = told.rank
        metrics[name] = entry
    return {
        "metrics": metrics,
        "documents": record.n,
        "limit": record.limit,
        "conditions": {name: value for name, value in record.conditions if name in _OF_TASK},
        "achieved_ratio": record.achieved_ratio,
        "kv_bytes_full": record.kv_bytes_full,
        "kv_bytes_kept": record.kv_bytes_kept,
        "tokens_per_second": dict(record.tokens_per_second),
        "date": _date(record.date),
        "commit": record.commit,
        "versions": dict(record.versions),
        "command": command(record),
        "file": _named(record.path, top),
        "cell": record.cell,
    }


def _tasks(records: Iterable[Record]) -> dict[str, Any]:
    """Each task's version, documents and metrics with their direction; the main metric is the foremost that has one."""
    found: dict[str, Any] = {}
    for record in records:
        entry = found.setdefault(record.task, {"version": record.version, "documents": record.n, "metrics": {}})
        for name in record.metrics:
            entry["metrics"].setdefault(name, record.higher_is_better.get(name.partition(",")[0]))
    for entry in found.values():
        directed = [name for name, better in entry["metrics"].items() if better is not None]
        entry["main_metric"] = foremost(directed) or next(iter([*directed, *entry["metrics"]]), None)
    return dict(sorted(found.items()))


def _named(path: Path, top: Path | None) -> str:
    """A file's path below the results, or its name where it lies elsewhere: no paths of this machine."""
    inside = top is not None and path.is_relative_to(top)
    return path.relative_to(top).as_posix() if inside and top else path.name


def _date(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: None stands for them."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
