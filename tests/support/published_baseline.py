"""The repository's own results, as the files that they were before they were published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from fairkv_eval.results.published_results import FILE, ReadResult, read_results

RESULTS = Path(__file__).resolve().parents[2] / "results"
BASELINE = RESULTS / "baseline"


def results(part: str) -> list[ReadResult]:
    """Those of the baseline whose path holds this."""
    file = BASELINE / FILE
    everything = read_results(file, json.loads(gzip.decompress(file.read_bytes())))
    return [result for result in everything if part in result.path.as_posix()]


def write(result: ReadResult, folder: Path) -> Path:
    """A result and its samples as files in a folder."""
    for source in result.samples.values():
        text = "".join(json.dumps(line) + "\n" for line in source.lines())
        (folder / source.name).write_text(text)
    path = folder / result.path.name
    path.write_text(json.dumps(result.content, indent=2))
    return path
