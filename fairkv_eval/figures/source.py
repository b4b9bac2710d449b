"""Where a figure's values come from: the line below it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone

from fairkv_eval.figures.model_results import TaskResults
from fairkv_eval.results.record import Record


def source(model: str, tasks: Sequence[TaskResults]) -> str:
    """Model, documents, length of answers and dates of the tasks that a figure shows."""
    records = [record for task in tasks for members in task.lines.values() for record in members]
    parts = [_model(model, records), _by_task(tasks, _documents), _by_task(tasks, _answers), _dates(records)]
    return " · ".join(part for part in parts if part)


def _model(model: str, records: Sequence[Record]) -> str:
    types = {dict(record.conditions).get("dtype") for record in records} - {None}
    return ", ".join([model, *sorted(map(str, types))])


def _by_task(tasks: Sequence[TaskResults], words: Callable[[TaskResults], str]) -> str:
    """What holds of each task; once if it holds of all."""
    by_words: dict[str, list[str]] = {}
    for task in tasks:
        by_words.setdefault(words(task), []).append(task.name)
    if len(by_words) == 1:
        return next(iter(by_words))
    return "; ".join(f"{what} ({', '.join(names)})" for what, names in by_words.items() if what)


def _first(task: TaskResults) -> Record:
    return task.full or next(members[0] for members in task.lines.values())


def _documents(task: TaskResults) -> str:
    record = _first(task)
    part = record.n_original is not None and record.n < record.n_original
    return f"{record.n:,} of {record.n_original:,} documents" if part else f"{record.n:,} documents"


def _answers(task: TaskResults) -> str:
    record = _first(task)
    if (record.arguments.get("fairkv") or {}).get("generated_tokens") == 0:
        return "no answers, choices by their likelihood"
    try:
        longest = json.loads(dict(record.conditions).get("generation") or "{}").get("max_gen_toks")
    except (ValueError, AttributeError):
        return ""
    return f"answers of up to {longest} tokens{_cut(task)}" if longest else ""


def _cut(task: TaskResults) -> str:
    """The share of a task's answers that have as many tokens as they may; "" if none has, or some run did not count."""
    records = {record.path: record for members in task.lines.values() for record in members}.values()
    counts = [record.answers_cut for record in records if record.answers_cut is not None]
    if len(counts) < len(records) or not sum(counts):
        return ""
    return f", {sum(counts) / sum(record.n * record.repeats for record in records):.0%} of them cut"


def _dates(records: Sequence[Record]) -> str:
    days = sorted({_day(record.date) for record in records if record.date})
    return "" if not days else f"run {days[0]}" if len(days) == 1 else f"run {days[0]} to {days[-1]}"


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d")
