"""The samples the harness logs beside a result: one line a document and filter."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError


def read(path: Path, task_hash: str | None = None) -> list[dict[str, Any]]:
    """The lines of a samples file, plain or gzip-compressed, in their order.

    UsageError where it is damaged, or where it is not what ``task_hash`` (the harness's hash over all lines) says.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            lines = [json.loads(line) for line in file]
        digest = hashlib.sha256("".join(s["doc_hash"] + s["prompt_hash"] + s["target_hash"] for s in lines).encode())
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path.name}: not samples of the harness, or truncated ({error})") from error
    if task_hash and digest.hexdigest() != task_hash:
        raise UsageError(f"{path.name}: not the samples of this result; the hash of its documents is another")
    return lines


def keys(lines: Iterable[Mapping[str, Any]]) -> list[str]:
    """A key for each line: the document's hash, numbered where a filter meets the same document again."""
    seen: Counter[tuple[str, str]] = Counter()
    found = []
    for line in lines:
        met = (line.get("filter", "none"), line["doc_hash"])
        seen[met] += 1
        found.append(line["doc_hash"] if seen[met] == 1 else f"{line['doc_hash']}#{seen[met]}")
    return found


def by_metric(lines: Sequence[Mapping[str, Any]], reported: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{metric: {document: value}}; a metric of a filter other than "none" is named ``metric,filter``, as in results.

    A list of verdicts (IFEval's instruction level) becomes the document's share of the pooled accuracy, so that means
    over documents are what the harness reports. Metrics that are no mean over documents, such as a perplexity, are left
    out: of the ``reported`` values only those are given whose documents average to them.
    """
    values: dict[str, dict[str, Any]] = {}
    for document, line in zip(keys(lines), lines, strict=True):
        filtered = line.get("filter", "none")
        for name in line.get("metrics", ()):
            key = name if filtered == "none" else f"{name},{filtered}"
            if key not in values:
                values[key] = {}
            values[key][document] = line.get(name)
    means = {key: _means(given, reported.get(key)) for key, given in values.items()}
    return {key: given for key, given in means.items() if given}


def by_document(lines: Sequence[Mapping[str, Any]], reported: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{document: {metric: value}}: `by_metric` the other way round, with every document."""
    found: dict[str, dict[str, float]] = {document: {} for document in keys(lines)}
    for metric, given in by_metric(lines, reported).items():
        for document, value in given.items():
            found[document][metric] = value
    return found


def _means(given: Mapping[str, Any], reported: float | None) -> dict[str, float]:
    """A metric's values by document as numbers; {} where their mean is not what was reported."""
    if reported is None or not math.isfinite(reported):
        return {}
    kinds = set(map(type, given.values()))
    if kinds == {list} and {type(v) for value in given.values() for v in value} <= {bool}:
        total = sum(map(len, given.values()))
        numbers = {d: sum(value) * len(given) / total for d, value in given.items()} if total else {}
    elif kinds <= {bool, int, float}:
        numbers = dict(zip(given, map(float, given.values()), strict=True))
    else:
        return {}
    mean = math.fsum(numbers.values()) / len(numbers) if numbers else math.nan
    return numbers if math.isclose(mean, reported, rel_tol=1e-6, abs_tol=1e-9) else {}
