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

from fairkv_eval import provenance
from fairkv_eval.errors import UsageError
from fairkv_eval.files import folder, write
from fairkv_eval.results.reader import read
from fairkv_eval.results.record import Record

_TEXTS = ("doc", "arguments", "target", "resps", "filtered_resps")


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
            into = output / (path.parent.relative_to(top) if top.is_dir() else "")
            if (into / path.name).exists():
                raise UsageError(f"{into / path.name} exists already; name another folder")
            folder(into)
            for record in records:
                _write_scores(record, into)
            written.append(write(into / path.name, _without_paths(path)))
    return written


def _write_scores(record: Record, into: Path) -> None:
    samples = record.sample_file()
    if samples is None:
        return
    lines = ({k: v for k, v in line.items() if k not in _TEXTS} for line in record.lines())
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    # Without a time, so that the same scores make the same file.
    write(into / f"{samples.name.removesuffix('.gz')}.gz", gzip.compress(text.encode(), mtime=0))


def _without_paths(path: Path) -> str:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for config in result.get("configs", {}).values():
        provenance.shorten_source(config.get("metadata") or {})
    arguments = result.get("config", {}).get("model_args")
    if isinstance(arguments, dict) and "pretrained" in arguments:
        arguments["pretrained"] = provenance.model_name(arguments["pretrained"])
    return json.dumps(result, indent=2, ensure_ascii=False)
