"""The manifest of a finished cell: its files and their sizes, so that a damaged cell is noticed without reading it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.files import sync

NAME = ".files.json"  # hidden, since every other *.json of a folder is read as a result


def complete(folder: Path, samples: int) -> None:
    """Check a cell's files as they are on disk, and write their manifest beside them.

    Raise OSError or UsageError if the disk did not take them whole: a result that is not JSON, or other than
    ``samples`` lines of samples.
    """
    result, logged = (_only(folder, pattern) for pattern in ("results_*.json", "samples_*.jsonl"))
    for path in (result, logged):
        sync(path)
    try:
        json.loads(result.read_bytes())
        with logged.open("rb") as lines:
            count = sum(isinstance(json.loads(line), dict) for line in lines)
    except ValueError as error:
        raise UsageError(f"the files in {str(folder)!r} were cut off ({error})") from error
    if count != samples:
        raise UsageError(f"{logged.name} holds {count} of {samples} samples")
    manifest = folder / NAME
    manifest.write_text(json.dumps({path.name: path.stat().st_size for path in (result, logged)}), encoding="utf-8")
    sync(manifest)
    sync(folder)


def result_of(folder: Path) -> dict[str, Any] | None:
    """A cell's result; None unless its files are there, as long as they were when they were written.

    Raise UsageError if a file stands in the place of the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{str(folder)!r} is a file, and a cell's folder goes there; move it away")
    try:
        sizes = _sizes(folder)
        if {name: (folder / name).stat().st_size for name in sizes} != sizes:
            return None
        (result,) = (name for name in sizes if name.startswith("results_"))
        loaded = json.loads((folder / result).read_bytes())
        return loaded if loaded["config"]["fairkv"]["sweep"] else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _sizes(folder: Path) -> dict[str, int]:
    """The sizes that the files should have. A cell without a manifest, as an older version wrote them, is judged by its
    last line."""
    manifest = folder / NAME
    if manifest.exists():
        return dict(json.loads(manifest.read_bytes()))
    logged = _only(folder, "samples_*.jsonl")
    whole = logged.read_bytes().endswith(b"}\n")
    return {path.name: path.stat().st_size if whole else -1 for path in (_only(folder, "results_*.json"), logged)}


def _only(folder: Path, pattern: str) -> Path:
    """The file of this name in a folder."""
    files = list(folder.glob(pattern))
    if len(files) != 1:
        raise UsageError(f"{str(folder)!r} holds {len(files)} files {pattern}")
    return files[0]
