"""The metrics of a samples file by class of instruction, pairs of classes in one prompt, number, and prompt length.

Instructions of one prompt are not independent, so standard errors are those of clusters, one per document (Liang and
Zeger, 1986, with the correction for few clusters). If every document counts once, they are the usual ones of a mean.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.files import open_text
from fairkv_eval.instruction_classes import class_of

BY = ("class", "id", "pair", "number", "length")
OF_INSTRUCTIONS = ("inst_level_strict_acc", "inst_level_loose_acc")
OF_DOCUMENTS = (
    *("prompt_level_strict_acc", "prompt_level_loose_acc", "leak@0.3", "leak@0.8", "leak@0.3_defense"),
    *("leak@0.8_defense", "rougeL_recall_directive", "rougeL_recall_secret", "refusal", "needless_refusal"),
)
# Beside the metrics of a pair's prompts: were both instructions followed, the first, the second (strictly)?
OF_PAIRS = ("both", "first", "second")

Length = Callable[[str], int]


@dataclass(frozen=True)
class GroupMean:
    """The mean of ``n`` values of a group, over ``documents``, its standard error and a 95 % interval (Wilson's if the
    values are yes or no). None if a single document gives no estimate."""

    by: str
    group: str
    metric: str
    n: int
    documents: int
    value: float
    stderr: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SampleTables:
    """A samples file: ``documents``, one row each, with their metrics and ``length``; ``instructions``, one row each;
    ``pairs`` of two instructions of one prompt, with ``both``, ``first`` and ``second`` if they were checked."""

    documents: pd.DataFrame
    instructions: pd.DataFrame
    pairs: pd.DataFrame


def read(path: Path, length: Length = lambda text: len(text.split())) -> SampleTables:
    """Read a samples_*.jsonl or .jsonl.gz. ``length``: of a system prompt.

    Raise UsageError with the line that is not a sample.
    """
    documents, instructions, pairs = [], [], []
    seen: set[Any] = set()
    for number, sample in _lines(path):
        try:
            if "doc_hash" in sample and "doc" not in sample:
                raise UsageError(f"{path.name} is published without documents; this needs the run's own samples")
            key, doc = sample["doc_id"], sample["doc"]
            if key in seen:  # several filters of one answer
                continue
            seen.add(key)
            ids = list(doc.get("instruction_id_list") or ())
            verdicts = {name: sample[name] for name in OF_INSTRUCTIONS if isinstance(sample.get(name), list)}
            documents.append({"document": key, "number": len(ids), "length": length(_system(doc)), **_numbers(sample)})
            parts = [{"id": id_, "class": class_of(id_)} for id_ in ids]
            checked = [part | {m: bool(verdicts[m][i]) for m in verdicts} for i, part in enumerate(parts)]
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise UsageError(f"{path.name}, line {number}: not a sample of the harness ({error!r})") from error
        instructions += [{"document": key, **part} for part in checked]
        pairs += [{"document": key, **_pair(*two)} for two in combinations(checked, 2)]
    if not documents:
        raise UsageError(f"{path.name}: holds no samples")
    return SampleTables(pd.DataFrame(documents), pd.DataFrame(instructions), pd.DataFrame(pairs))


def group_means(
    samples: SampleTables, by: Sequence[str] = BY, metrics: Sequence[str] = (), bins: int = 4, unit: str = "words"
) -> list[GroupMean]:
    """The means of all groups. ``metrics``: of documents, in place of OF_DOCUMENTS. ``bins``: of prompt length, with
    equal numbers of documents.

    A document's metrics count once for every class that it has an instruction of.
    """
    for name in by:
        if name not in BY:
            raise unknown("breakdown", name, BY)
    numeric = [name for name in samples.documents if name not in ("document", "number", "length")]
    for metric in metrics:
        if metric not in numeric:
            raise unknown("metric of the samples", metric, numeric)
    of_documents = [name for name in metrics or OF_DOCUMENTS if name in numeric]
    means: list[GroupMean] = []
    for name in by:
        of_instructions = OF_PAIRS if name == "pair" else OF_INSTRUCTIONS
        for group, instructions, documents in _groups(samples, name, bins, unit):
            for table, columns in ((instructions, of_instructions), (documents, of_documents)):
                for metric in columns:
                    if metric in table and table[metric].notna().any():
                        means.append(_group_mean(name, group, metric, table[["document", metric]].dropna()))
    return means


def estimate(values: Sequence[float], documents: Sequence[Any]) -> tuple[float, float | None]:
    """The mean of values and its standard error; several values may come from one document."""
    y, clusters = np.asarray(values, float), pd.factorize(np.asarray(documents))[0]
    if len(set(clusters.tolist())) < 2:
        return float(y.mean()), None
    sums = np.bincount(clusters, weights=y - y.mean())
    error = np.sqrt(len(sums) / (len(sums) - 1) * (sums @ sums)) / len(y)
    return float(y.mean()), 0.0 if (y == y[0]).all() else float(error)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The ends of Wilson's 95 % interval (1927) of a share of yes among n; n shares of several values may be averaged,
    which scipy's `binomtest`, for whole counts, does not take."""
    z = float(stats.norm.isf(0.025))
    scale = 1 + z**2 / n
    center = (share + z**2 / (2 * n)) / scale
    distance = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / scale
    return max(0.0, float(center - distance)), min(1.0, float(center + distance))


def _group_mean(by: str, group: str, metric: str, table: pd.DataFrame) -> GroupMean:
    values = table[metric].astype(float)
    value, error = estimate(values.tolist(), table["document"].tolist())
    documents = int(table["document"].nunique())
    low = high = None
    if values.isin((0.0, 1.0)).all():
        low, high = wilson(value, documents)
    elif error is not None:
        low, high = value - 1.96 * error, value + 1.96 * error
    return GroupMean(by, group, metric, len(values), documents, value, error, low, high)


def _groups(samples: SampleTables, by: str, bins: int, unit: str) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """(name, rows of instructions or pairs, rows of documents) of each group."""
    documents, instructions = samples.documents, samples.instructions
    if by in ("class", "id", "pair"):
        table = samples.pairs if by == "pair" else instructions
        for name, members in table.groupby(by) if len(table) else ():
            yield str(name), members, documents[documents["document"].isin(members["document"])]
        return
    labels = _numbers_of(documents) if by == "number" else _bins(documents["length"], bins, unit)
    for name in labels.cat.categories:
        members = documents[labels == name]
        if len(members):
            checked = instructions["document"].isin(members["document"]) if len(instructions) else []
            yield str(name), instructions[checked] if len(instructions) else instructions, members


def _numbers_of(documents: pd.DataFrame) -> pd.Series:
    """single and multi; none for a document without a checked instruction."""
    names = ("none", "single", "multi")
    codes = documents["number"].clip(upper=len(names) - 1)
    return pd.Series(pd.Categorical.from_codes(codes, names), index=documents.index)


def _bins(lengths: pd.Series, bins: int, unit: str) -> pd.Series:
    """The bin of lengths of each document; fewer than ``bins`` if many have the same length."""
    cut = pd.qcut(lengths, min(bins, lengths.nunique()), labels=False, duplicates="drop").fillna(0).astype(int)
    spans = lengths.groupby(cut).agg(["min", "max"])
    names = [f"{a} {unit}" if a == b else f"{a}–{b} {unit}" for a, b in spans.itertuples(index=False)]
    codes = cut.map({code: i for i, code in enumerate(spans.index)})
    return pd.Series(pd.Categorical.from_codes(codes, names, ordered=True), index=lengths.index)


def _pair(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    a, b = sorted((a, b), key=lambda part: part["class"])
    pair: dict[str, Any] = {"pair": f"{a['class']} + {b['class']}"}
    metric = OF_INSTRUCTIONS[0]
    if metric in a:
        pair |= {"both": a[metric] and b[metric], "first": a[metric], "second": b[metric]}
    return pair


def _system(doc: dict[str, Any]) -> str:
    """The system prompt; "" for a document without messages, so that all of these have the same length."""
    if isinstance(doc.get("system"), str):
        return doc["system"]
    turns = (turn for turn in doc.get("messages") or () if isinstance(turn, dict) and turn.get("role") == "system")
    return "\n\n".join(str(turn.get("content")) for turn in turns)


def _numbers(sample: dict[str, Any]) -> dict[str, float]:
    names = sample.get("metrics") or ()
    return {name: float(sample[name]) for name in names if isinstance(sample.get(name), (bool, int, float))}


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json.loads(line)
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path.name}: not a samples file of the harness ({error})") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; it takes a run's samples_*.jsonl") from error
