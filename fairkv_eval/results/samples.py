"""The samples that the harness logs beside a result: one line per document and filter."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fairkv_eval.bootstrap import Floats
from fairkv_eval.errors import UsageError

_LARGEST = 1e100  # of a value whose differences are tested


@dataclass(frozen=True, eq=False)
class Column:
    """A metric's values: ``numbers[i]`` is that of ``documents[i]``. Columns of the same documents share the tuple."""

    documents: tuple[str, ...]
    numbers: Floats

    def __len__(self) -> int:
        return len(self.documents)

    def of(self, documents: Sequence[str]) -> Floats:
        """The values of these documents, in their order."""
        if documents is self.documents:
            return self.numbers
        by_document = dict(zip(self.documents, self.numbers.tolist(), strict=True))
        return np.asarray([by_document[document] for document in documents])


def read(path: Path, task_hash: str | None = None) -> list[dict[str, Any]]:
    """The lines of a samples file, plain or gzip-compressed, in their order.

    Raise UsageError if it is damaged, or does not match ``task_hash`` (the harness's hash over all lines).
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
        lines = [json.loads(line) for line in text.split("\n") if line]
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise _damaged(path.name, error) from error
    return checked(lines, path.name, task_hash)


def checked(lines: list[dict[str, Any]], name: str, task_hash: str | None) -> list[dict[str, Any]]:
    """The lines, if they are samples. ``name`` is their file's; see `read` for errors."""
    try:
        digest = hashlib.sha256("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in lines).encode())
        for line in lines:
            _check(line)
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(name, error) from error
    if task_hash and digest.hexdigest() != task_hash:
        raise UsageError(f"{name}: not the samples of this result; the hash of its documents is another")
    return lines


def _damaged(name: str, error: Exception) -> UsageError:
    return UsageError(f"{name}: not samples of the harness, or truncated ({_short(error)})")


def _check(line: dict[str, Any]) -> None:
    """Raise TypeError unless what comparisons read of a line has the types that the harness writes."""
    metrics = line.get("metrics", [])
    if not (isinstance(metrics, list) and isinstance(line.get("filter", "none"), str)):
        raise TypeError("a line whose metrics are not a list, or whose filter is not a name")
    if not set(map(type, metrics)) <= {str}:
        raise TypeError("a line with a metric that is not a name")


def _short(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)[:200]


def keys(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """A key for each line: the document's hash, numbered if a filter meets the same document again."""
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for line in lines:
        met = (line.get("filter", "none"), line["doc_hash"])
        seen[met] += 1
        numbered.append(line["doc_hash"] if seen[met] == 1 else f"{line['doc_hash']}#{seen[met]}")
    return numbered


def by_metric(lines: Sequence[Mapping[str, Any]], reported: Mapping[str, float]) -> dict[str, Column]:
    """{metric: its values}; a metric of a filter other than "none" is named ``metric,filter``, as in results.

    A list of verdicts (IFEval's instruction level) becomes the document's share of the pooled accuracy, so that means
    over documents are what the harness reports. Metrics that are not means over documents, such as a perplexity, are
    left out: their documents do not average to the ``reported`` value.
    """
    columns = {}
    for key, documents, values in _columns(lines):
        numbers = _numbers(values, reported.get(key))
        if numbers:
            columns[key] = Column(_shared(tuple(documents)), np.asarray(numbers))
    return columns


def _columns(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Sequence[str], list[Any]]]:
    """(metric, documents, values), in the order in which the metrics first occur."""
    documents = keys(lines)
    kinds = {(line.get("filter", "none"), *line.get("metrics", ())) for line in lines}
    if len(kinds) == 1:  # as nearly always, and then much faster
        ((filtered, *names),) = kinds
        for name in dict.fromkeys(names):
            yield _named(name, filtered), documents, [line.get(name) for line in lines]
        return
    columns: dict[str, dict[str, Any]] = {}
    for document, line in zip(documents, lines, strict=True):
        for name in line.get("metrics", ()):
            columns.setdefault(_named(name, line.get("filter", "none")), {})[document] = line.get(name)
    for key, values in columns.items():
        yield key, list(values), list(values.values())


def _named(metric: str, filtered: str) -> str:
    return metric if filtered == "none" else f"{metric},{filtered}"


@lru_cache(maxsize=1024)
def _shared(documents: tuple[str, ...]) -> tuple[str, ...]:
    """One tuple for all equal ones: a thousand results are on the same documents."""
    return documents


def by_document(lines: Sequence[Mapping[str, Any]], reported: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{document: {metric: value}}: `by_metric` the other way round, with every document."""
    documents: dict[str, dict[str, float]] = {document: {} for document in keys(lines)}
    for metric, column in by_metric(lines, reported).items():
        for document, value in zip(column.documents, column.numbers.tolist(), strict=True):
            documents[document][metric] = value
    return documents


def _numbers(values: Sequence[Any], reported: float | None) -> list[float]:
    """A metric's values as numbers; [] if their mean is not the reported one."""
    if reported is None or not math.isfinite(reported):
        return []
    kinds = set(map(type, values))
    if kinds == {list} and {type(v) for value in values for v in value} <= {bool}:
        total = sum(map(len, values))
        numbers = [sum(value) * len(values) / total for value in values] if total else []
    elif kinds <= {bool, int, float}:
        numbers = _floats(values)
    else:
        return []
    mean = math.fsum(numbers) / len(numbers) if numbers else math.nan
    return numbers if math.isclose(mean, reported, rel_tol=1e-6, abs_tol=1e-9) else []


def _floats(values: Sequence[float]) -> list[float]:
    """The values as floats; [] if one is too large to be squared, or is not finite."""
    try:
        numbers = list(map(float, values))
    except OverflowError:
        return []
    return numbers if not numbers or np.abs(numbers).max() < _LARGEST else []
