"""Results for others: all that comparisons need, without documents, prompts, answers, and paths of this machine.

The documents of a benchmark may seldom be passed on. `fairkv leaderboard`, `figures`, `compare` and `recommend` only
read the hash of a sample's document and its scores; these stay, gzip-compressed.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lm_eval.utils import sanitize_model_name, simple_parse_args_string

from fairkv_eval.errors import UsageError
from fairkv_eval.files import folder, write
from fairkv_eval.provenance import model_name
from fairkv_eval.results.published_fields import name, published, published_sample
from fairkv_eval.results.reader import Problem, read
from fairkv_eval.results.record import Record


def publish(results: Iterable[Path], output: Path) -> tuple[list[Path], list[Problem]]:
    """Write every result file, and the samples beside it, below ``output``, in the same folders as below ``results``.

    Return the paths of the result files, and what was left out: files that cannot be read, or whose samples cannot.
    Raise UsageError for a file that would be overwritten, and if all were left out.
    """
    written: list[Path] = []
    left_out: list[Problem] = []
    for top in results:
        all_records, problems = read(top)
        left_out += problems
        by_file: dict[Path, list[Record]] = {}
        for record in all_records:
            by_file.setdefault(record.path, []).append(record)
        for path, records in sorted(by_file.items()):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                into = output / (_folders(path.parent.relative_to(top), content) if top.is_dir() else "")
                result, scores = _text(content).encode(), _scores(records, into)
            except Exception as error:  # a file of others may be wrong in any way
                left_out.append(Problem(path, f"cannot be published: {error}"[:300]))
                continue
            if (into / path.name).exists():
                raise UsageError(f"{into / path.name} exists already; name another folder")
            folder(into)
            for file, content in scores.items():
                write(file, content)
            written.append(write(into / path.name, result))
    if left_out and not written:
        raise UsageError(f"no result that can be published; the first: {left_out[0].path}: {left_out[0].reason}")
    return written, left_out


def _scores(records: Iterable[Record], into: Path) -> dict[Path, bytes]:
    """The samples of the records of one file, without texts: {path: content}."""
    scores = {}
    for record in records:
        samples = record.sample_file()
        if samples is not None:
            lines = map(published_sample, record.lines())
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            # Without a time, so that the same scores make the same file.
            scores[into / f"{samples.name.removesuffix('.gz')}.gz"] = gzip.compress(text.encode(), mtime=0)
    return scores


def _folders(below: Path, result: dict[str, Any]) -> Path:
    """The folders of a result, of which the harness names one after the whole path of a model."""
    model = sanitize_model_name(model_name(result.get("model_name") or ""))
    named = {part: str(name(part)) for part in below.parts}
    named[str(result.get("model_name_sanitized"))] = model
    return Path(*(model if part.startswith("__") else named[part] for part in below.parts))


def _text(result: dict[str, Any]) -> str:
    """A result's published fields as JSON."""
    arguments = result["config"].get("model_args") or {}
    if isinstance(arguments, str):
        result["config"]["model_args"] = simple_parse_args_string(arguments)
    of_model = result["config"].get("model_args") or {}
    for config in result["configs"].values():  # the harness adds the model's arguments to a task's metadata
        if isinstance(config, dict) and isinstance(config.get("metadata"), dict):
            config["metadata"] = {k: v for k, v in config["metadata"].items() if k not in of_model}
    return json.dumps(published(result), indent=2, ensure_ascii=False)
