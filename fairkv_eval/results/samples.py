"""The samples that the harness logs beside a result: one line per document and filter."""

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

    Raise UsageError if it is damaged, or does not match ``task_hash`` (the harness's hash over all lines).
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
    """A key for each line: the document's hash, numbered if a filter meets the same document again."""
    seen: Counter[tuple[str, str]] = Counter()
    numbered = []
    for line in lines:
        met = (line.get("filter", "none"), line["doc_hash"])
        seen[met] += 1
        numbered.append(line["doc_hash"] if seen[met] == 1 else f"{line['doc_hash']}#{seen[met]}")
    return numbered


def by_metric(lines: Sequence[Mapping[str, Any]], reported: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{metric: {document: value}}; a metric of a filter other than "none" is named ``metric,filter``, as in results.

    A list of verdicts (IFEval's instruction level) becomes the document's share of the pooled accuracy, so that means
    over documents are what the harness reports. Metrics that are not means over documents, such as a perplexity, are
    left out: their documents do not average to the ``reported`` value.
    """
    values: dict[str, dict[str, Any]] = {}
    for document, line in zip(keys(lines), lines, strict=True):
        filtered = line.get("filter", "none")
        for name in line.get("metrics", ()):
            key = name if filtered == "none" else f"{name},{filtered}"
            if key not in values:
                values[key] = {}
            values[key][document] = line.get(name)
    numbers = {key: _numbers(of_metric, reported.get(key)) for key, of_metric in values.items()}
    return {key: of_metric for key, of_metric in numbers.items() if of_metric}


def by_document(lines: Sequence[Mapping[str, Any]], reported: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """{document: {metric: value}}: `by_metric` the other way round, with every document."""
    documents: dict[str, dict[str, float]] = {document: {} for document in keys(lines)}
    for metric, values in by_metric(lines, reported).items():
        for document, value in values.items():
            documents[document][metric] = value
    return documents


def _numbers(values: Mapping[str, Any], reported: float | None) -> dict[str, float]:
    """A metric's values by document as numbers; {} if their mean is not the reported one."""
    if reported is None or not math.isfinite(reported):
        return {}
    kinds = set(map(type, values.values()))
    if kinds == {list} and {type(v) for value in values.values() for v in value} <= {bool}:
        total = sum(map(len, values.values()))
        numbers = {d: sum(value) * len(values) / total for d, value in values.items()} if total else {}
    elif kinds <= {bool, int, float}:
        numbers = dict(zip(values, map(float, values.values()), strict=True))
    else:
        return {}
    mean = math.fsum(numbers.values()) / len(numbers) if numbers else math.nan
    return numbers if math.isclose(mean, reported, rel_tol=1e-6, abs_tol=1e-9) else {}
