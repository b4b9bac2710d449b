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
from fairkv_eval.results.reader import read
from fairkv_eval.results.record import Record


def publish(results: Iterable[Path], output: Path) -> list[Path]:
    """Write every result file, and the samples beside it, below ``output``, in the same folders as below ``results``.

    Return the paths of the result files. Raise UsageError for a file that is not a result, or would be overwritten.
    """
    written = []
    for top in results:
        all_records, problems = read(top)
        if problems:
            path, reason = problems[0]
            raise UsageError(f"{path}: {reason}")
        by_file: dict[Path, list[Record]] = {}
        for record in all_records:
            by_file.setdefault(record.path, []).append(record)
        for path, records in sorted(by_file.items()):
            result = json.loads(path.read_text(encoding="utf-8"))
            into = output / (_folders(path.parent.relative_to(top), result) if top.is_dir() else "")
            if (into / path.name).exists():
                raise UsageError(f"{into / path.name} exists already; name another folder")
            folder(into)
            for record in records:
                _write_scores(record, into)
            written.append(write(into / path.name, _text(result)))
    return written


def _write_scores(record: Record, into: Path) -> None:
    samples = record.sample_file()
    if samples is None:
        return
    lines = map(published_sample, record.lines())
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    # Without a time, so that the same scores make the same file.
    write(into / f"{samples.name.removesuffix('.gz')}.gz", gzip.compress(text.encode(), mtime=0))


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
