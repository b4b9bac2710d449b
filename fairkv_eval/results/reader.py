"""Result files read back for comparison.

A result that cannot be compared is named and left out, never averaged in: truncated or foreign files, results of a
model's task on other documents or of another version, and repeats of the same cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairkv_eval.errors import UsageError
from fairkv_eval.results import samples
from fairkv_eval.results.published_results import FILE, published_in
from fairkv_eval.results.record import Record, direction
from fairkv_eval.results.result_file import parse


class Problem(NamedTuple):
    """A file, or one task of it, that was left out, and why. ``model``: whose it is, if it could be read."""

    path: Path
    reason: str
    model: str | None = None


class Records(NamedTuple):
    records: list[Record]
    problems: list[Problem]


def read(paths: str | Path | Iterable[str | Path], across_models: bool = False) -> Records:
    """The results in these files and folders (every ``*.json`` and ``cells.json.gz`` at any depth), the newest of each
    cell.

    A path may also be the one that a published result had as a file, or a folder of such.

    All records of a model and task are on the same documents and of one version; ``across_models``: those of a task,
    whatever the model, for a table in which models stand together. Raise UsageError for a path that does not exist.
    """
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    records, problems = [], []
    for path in dict.fromkeys(file for name in paths for file in _files(Path(name))):
        try:
            records += parse(path)
        except UsageError as error:
            problems.append(Problem(path, str(error)))
    group = _task if across_models else _model_and_task
    records, others = _same_documents(_identified(records), group)
    records, turned = _same_directions(records, group)
    records, again = _once(records)
    return Records(records, problems + others + turned + again)


Group = Callable[[Record], Hashable]  # what records must share to be compared at all


def _task(record: Record) -> str:
    return record.task


def _model_and_task(record: Record) -> tuple[str, str]:
    return record.model, record.task


def _identified(records: Sequence[Record]) -> list[Record]:
    """The records, with a model's identity for those that have none.

    `hf` records no identity, and fairkv once did not. Such a record is of the one model with an identity that it shares
    its name, weights and all conditions with; if there are several, it stays apart.
    """
    identities: dict[Any, set[Any]] = {}
    for record in records:
        if record.identity is not None:
            identities.setdefault(record.without_identity().run, set()).add(record.identity)
    return [
        record.with_identity(*identities[record.run])
        if record.identity is None and len(identities.get(record.run, ())) == 1
        else record
        for record in records
    ]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        inside = sorted([*path.rglob("*.json"), *path.rglob(FILE)])
        inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        return inside or [path] * (published_in(path) is not None)
    if not path.exists() and published_in(path) is None:
        raise UsageError(f"no such file or folder: {str(path)!r}")
    return [path]


def _same_documents(records: list[Record], group: Group) -> tuple[list[Record], list[Problem]]:
    """The records on the documents most results of their group are on; in a tie the most documents, then the newest."""
    kept, problems = [], []
    read_before: dict[Any, Any] = {}
    by_group: dict[Hashable, list[tuple[Any, Record]]] = {}
    for record in records:
        by_group.setdefault(group(record), []).append((_documents(record, read_before), record))
    for members in by_group.values():
        main = _most([(key[:2], record) for key, record in members])
        # Without samples or their hash, equal counts are all that can be required.
        identified = [(key, record) for key, record in members if key[:2] == main and key[2]]
        documents = _most(identified)[2] if identified else None
        for key, record in members:
            if key[:2] == main and key[2] in (None, documents):
                kept.append(record)
            else:
                problems.append(Problem(record.path, _difference(record, key, main), record.model))
    return kept, problems


def _documents(record: Record, read_before: dict[Any, Any]) -> tuple[str, int, Any]:
    """What results of a task must agree on: version, number of documents and, if samples name them, the documents."""
    if record.task_hash is None or record.sample_source is None:
        return str(record.version), record.n, None
    name = (record.task, record.task_hash)
    if name not in read_before:
        try:
            read_before[name] = frozenset(samples.keys(record.lines()))
        except UsageError:
            return str(record.version), record.n, None  # whoever needs the samples reports what is wrong
    return str(record.version), record.n, read_before[name]


def _most(members: list[tuple[Any, Record]]) -> Any:
    """The key of the most records; in a tie that with the most documents, then the newest."""
    count = Counter(key for key, _ in members)
    newest = {key: record.date or 0 for key, record in sorted(members, key=lambda member: member[1].date or 0)}
    return max(count, key=lambda key: (count[key], key[1], newest[key]))


def _difference(record: Record, key: tuple[str, int, Any], main: tuple[str, int]) -> str:
    if key[0] != main[0]:
        what = f"is of version {key[0]}, most results of version {main[0]}"
    elif key[1] != main[1]:
        what = f"has {key[1]} documents, most results {main[1]}"
    else:
        what = f"has other documents than most results, though as many ({key[1]})"
    return f"task {record.task} {what}: not comparable"


def _same_directions(records: list[Record], group: Group) -> tuple[list[Record], list[Problem]]:
    """The records whose metrics have the better direction that they have in most results of their group."""
    counts: dict[tuple[Hashable, str], Counter[bool | None]] = {}
    for record in records:
        for metric in record.metrics:
            counts.setdefault((group(record), metric), Counter())[direction(record, metric)] += 1
    mixed = {key: count.most_common(1)[0][0] for key, count in counts.items() if len(count) > 1}
    kept, problems = [], []
    for record in records:
        wanted = {m: mixed[group(record), m] for m in record.metrics if (group(record), m) in mixed}
        other = [metric for metric, better in wanted.items() if direction(record, metric) is not better]
        if other:
            reason = f"task {record.task}: {other[0]} has another better direction than in most results: not comparable"
            problems.append(Problem(record.path, reason, record.model))
        else:
            kept.append(record)
    return kept, problems


def _once(records: list[Record]) -> tuple[list[Record], list[Problem]]:
    """The newest record of each cell."""
    newest: dict[Any, Record] = {}
    problems = []
    for record in sorted(records, key=lambda r: (-(r.date or 0), str(r.path))):
        first = newest.setdefault((record.run, record.policy), record)
        if first is not record:
            reason = f"task {record.task}, {record.policy.label}: the same cell as the newer {first.path.name}"
            problems.append(Problem(record.path, reason, record.model))
    return list(newest.values()), problems
