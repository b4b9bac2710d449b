"""The harness's index of its own tasks, kept on disk: parsing its 15,000 files takes 6 s of processor time per start.

A stored index belongs to the names, sizes and times of all files of that folder, and to the versions that read them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.files import cache_dir, folder, write

KIND = "task_index"  # its folder in the cache folder

log = logging.getLogger(__name__)


def build_index(index: Any, paths: Iterable[Path], builtin: Path) -> dict[str, Any]:
    """What ``index.build(paths)`` gives, the harness's `TaskIndex`; of its own folder as stored, if that is first."""
    searched = [*paths]
    if searched[:1] != [builtin]:
        return dict(index.build(searched))
    entries = _stored(index, builtin)
    for name, entry in index.build(searched[1:]).items():
        if name in entries:
            logging.getLogger("lm_eval.tasks._index").warning(  # as the harness does for its folders
                "Task '%s' from %s overrides existing task from %s", name, entry.yaml_path, entries[name].yaml_path
            )
        entries[name] = entry
    return entries


def _stored(index: Any, root: Path) -> dict[str, Any]:
    place = cache_dir() / KIND / f"{_state(index, root)}.json"
    try:
        return dict(_entries(json.loads(place.read_bytes())))
    except (OSError, ValueError, TypeError, KeyError):
        entries: dict[str, Any] = index.build([root])
        _store(place, entries)
        return entries


def _store(place: Path, entries: Mapping[str, Any]) -> None:
    """Store an index in the place of former ones, if it can be read back as it is and the disk takes it."""
    rows = [
        [name, entry.kind.name, str(entry.yaml_path) if entry.yaml_path else None, entry.cfg, sorted(entry.tags)]
        for name, entry in entries.items()
    ]
    try:
        text = json.dumps(rows)
        if json.loads(text) != rows:
            raise ValueError("it holds values that JSON has not")
        for former in folder(place.parent).glob("*.json"):
            former.unlink(missing_ok=True)
        write(place, text)
    except (OSError, ValueError, TypeError, UsageError) as error:
        log.debug("the index of tasks is not stored: %s", error)


def _entries(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    from lm_eval.tasks._index import Entry, Kind

    for name, kind, path, config, tags in rows:
        yield name, Entry(name, Kind[kind], Path(path) if path else None, config, set(tags))


def _state(index: Any, root: Path) -> str:
    """The digest of everything that an index is made of."""
    # Which YAMLs the harness looks at; files that these include have other endings.
    chosen = sorted(str(path) for path in index._iter_yaml_files(root))
    versions = [version(name) for name in ("lm-eval", "fairkv-eval", "pyyaml")]
    return hashlib.sha256(repr([str(root), versions, chosen, sorted(_files(root))]).encode()).hexdigest()[:32]


def _files(root: str | Path) -> Iterator[tuple[str, int, int]]:
    """Name, size and time of each file below a folder, whose code is not counted."""
    with os.scandir(root) as entries:
        for entry in entries:
            if entry.is_dir():
                if entry.name != "__pycache__":
                    yield from _files(entry.path)
            elif not entry.name.endswith(".py"):
                state = entry.stat()
                yield entry.path, state.st_size, state.st_mtime_ns
