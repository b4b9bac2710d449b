"""Where the samples of a record are, one line per document and filter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fairkv_eval.results import samples

_DATED = re.compile(r"_(\d{4}-\d\d-\d\dT[\d.-]+)$")


class SampleSource(Protocol):
    """The samples of one task of one result."""

    @property
    def name(self) -> str:
        """The name that the harness gave their file."""

    def lines(self) -> list[dict[str, Any]]:
        """The samples as the harness wrote them, or as they were published. Raise UsageError if they are damaged."""


def file_name(result: str, task: str) -> str:
    """The harness's name for the samples of a task, from the name of the result file without its suffix."""
    dated = _DATED.search(result)
    return f"samples_{task}{dated.group(0) if dated else result.removeprefix('results')}.jsonl"


@dataclass(frozen=True)
class SampleFile:
    """A file of the harness, plain or gzip-compressed. task_hash: the hash of its documents in the result."""

    path: Path
    task_hash: str | None = None

    @classmethod
    def beside(cls, result: Path, task: str, task_hash: str | None) -> SampleFile | None:
        """The samples beside a result file; None if there are none."""
        plain = result.with_name(file_name(result.stem, task))
        found = next((path for path in (plain, plain.with_name(plain.name + ".gz")) if path.is_file()), None)
        return cls(found, task_hash) if found else None

    @property
    def name(self) -> str:
        return self.path.name.removesuffix(".gz")

    def lines(self) -> list[dict[str, Any]]:
        return samples.read(self.path, self.task_hash)
