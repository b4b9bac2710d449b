"""Published results: all result files of a folder in one JSON (gzip), samples in one Parquet file per model and task.

Parts that several results share, such as the configuration of a task, are held once: ``{"$shared": 3}`` stands for the
fourth of the shared parts.
"""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.files import folder, sha256_of, write
from fairkv_eval.results.published_samples import Line, PublishedSamples, PublishedTable, write_table
from fairkv_eval.results.sample_file import file_name

FILE = "cells.json.gz"
_PLAIN = "cells.json"  # as an earlier version wrote it
KIND = "fairkv results"

_SHARED = "$shared"
_SHORTEST = 60  # characters of a part that is worth sharing


@dataclass(frozen=True)
class PublishedResult:
    """A result file's path below the folder, its content, and its samples by task."""

    path: Path
    content: Mapping[str, Any]
    lines: Mapping[str, Sequence[Line]] = field(default_factory=dict)


def write_results(output: Path, results: Sequence[PublishedResult]) -> Path:
    """Write the results below ``output``. Raise UsageError if it holds published results already."""
    file = output / FILE
    if former := next((path for path in (file, output / _PLAIN) if path.exists()), None):
        raise UsageError(f"{former} exists already; name another folder")
    folder(output)
    tables = _write_tables(output, results)
    shared, contents = _share([result.content for result in results])
    entries = [
        {
            "file": result.path.as_posix(),
            "samples": {task: _table_name(result, task) for task in result.lines},
            "result": content,
        }
        for result, content in zip(results, contents, strict=True)
    ]
    head = {"kind": KIND, "samples": tables, "shared": shared}
    lines = ",\n".join(_text(entry) for entry in entries)
    text = f'{_text(head)[:-1]}, "results": [\n{lines}\n]}}\n'
    return write(file, gzip.compress(text.encode(), mtime=0))


def _write_tables(output: Path, results: Sequence[PublishedResult]) -> dict[str, str]:
    """Write the samples, and return the SHA-256 of each file by its path below ``output``."""
    tables: dict[str, dict[int, Sequence[Line]]] = {}
    for number, result in enumerate(results):
        for task, lines in result.lines.items():
            tables.setdefault(_table_name(result, task), {})[number] = lines
    for name, lines_by_result in tables.items():
        folder((output / name).parent)
        write_table(output / name, lines_by_result)
    return {name: sha256_of(output / name) for name in tables}


def _table_name(result: PublishedResult, task: str) -> str:
    """The path of a task's samples: one file per model and task."""
    model = result.path.parts[0] if len(result.path.parts) > 1 else "samples"
    return f"{model}/{task}.parquet"


def _share(contents: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Parts that occur more than once, and the contents with references to them."""
    counts: Counter[str] = Counter()
    for content in contents:
        _count(content, counts)
    shared: dict[str, int] = {}
    parts: list[Any] = []

    def referring(part: Any) -> Any:
        if not isinstance(part, (dict, list)):
            return part
        text = _text(part)
        if counts[text] > 1:
            if text not in shared:
                shared[text] = len(parts)
                parts.append(part)
            return {_SHARED: shared[text]}
        if _SHARED in part:
            raise UsageError(f"a result with the key {_SHARED!r} cannot be published")
        if isinstance(part, list):
            return [referring(entry) for entry in part]
        return {key: referring(entry) for key, entry in part.items()}

    return parts, [referring(dict(content)) for content in contents]


def _count(part: Any, counts: Counter[str]) -> None:
    """Count the parts that may be shared. What lies inside a part that has occurred before is not counted again."""
    if not isinstance(part, (dict, list)):
        return
    text = _text(part)
    if len(text) >= _SHORTEST:
        counts[text] += 1
        if counts[text] > 1:
            return
    for entry in part.values() if isinstance(part, dict) else part:
        _count(entry, counts)


def _whole(part: Any, shared: Sequence[Any]) -> Any:
    """A part with the shared parts in their places."""
    if isinstance(part, list):
        return [_whole(entry, shared) for entry in part]
    if not isinstance(part, dict):
        return part
    if part.keys() == {_SHARED}:
        return _whole(shared[part[_SHARED]], ())  # a copy: no result sees what is done to another
    return {key: _whole(entry, shared) for key, entry in part.items()}


def _text(part: Any) -> str:
    return json.dumps(part, ensure_ascii=False, separators=(",", ":"))


@dataclass(frozen=True)
class ReadResult:
    """A published result that was read back: the path that it would have as a file, its content, and its samples."""

    path: Path
    content: dict[str, Any]
    samples: Mapping[str, PublishedSamples]


def read_results(file: Path, content: Mapping[str, Any]) -> list[ReadResult]:
    """The results of a file of published results, whose JSON is ``content``."""
    tables = {name: PublishedTable(_inside(file.parent, name), digest) for name, digest in content["samples"].items()}
    results = []
    for number, entry in enumerate(content["results"]):
        result, path = _whole(entry["result"], content["shared"]), _inside(file.parent, entry["file"])
        hashes = result.get("task_hashes") or {}
        sources = {
            task: PublishedSamples(tables[name], number, file_name(path.stem, task), hashes.get(task))
            for task, name in entry["samples"].items()
        }
        results.append(ReadResult(path, result, sources))
    return results


def _inside(top: Path, name: str) -> Path:
    """A path below a folder, and nowhere else."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UsageError(f"published results name {name!r}, which is outside of their folder")
    return top / name


def published_in(path: Path) -> Path | None:
    """The file of published results that holds a result file of this path; None if there is none."""
    files = (parent / name for parent in path.parents for name in (FILE, _PLAIN))
    return next((file for file in files if file.is_file()), None)
