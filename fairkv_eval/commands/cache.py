"""``fairkv cache``: what is kept where, and how to get rid of it."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fairkv_eval.commands.parser import names
from fairkv_eval.commands.terminal import console, plain_table, show
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.files import cache_dir, writing

EXAMPLES = ("fairkv cache", "fairkv cache --clear models", "fairkv cache --clear")

# What is made or fetched again when it is needed, so that clearing costs time only.
KINDS = {
    "models": "converted copies of GGUF models",
    "statistics": "statistics of models that presses need",
    "data": "published files, and rows of declared tasks",
    "nltk": "the sentence splitter of earlier versions",
    "index": "the harness's index of its tasks",
    "compiled": "kernels that were compiled for this machine",
}
_EVERY = "all"


@dataclass(frozen=True)
class Entry:
    """Something of a kind in the cache folder. bytes: its size. changed: when, in seconds since the epoch."""

    kind: str
    path: Path
    bytes: int
    changed: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    parser.add_argument(
        "--clear",
        type=names,
        nargs="?",
        const=[_EVERY],
        metavar="KINDS",
        help=f"remove these kinds, joined by commas (default: all). {kinds}",
    )


def run(args: argparse.Namespace) -> None:
    if args.clear is None:
        _list()
    else:
        _clear(args.clear)


def entries() -> list[Entry]:
    """What is in the cache folder, kind by kind; files of others in the same folder are none of ours."""
    of_kind = sorted(((kind, path) for kind in KINDS for path in _places(kind)), key=lambda found: str(found[1]))
    return [_entry(kind, path) for kind, path in sorted(of_kind, key=lambda found: list(KINDS).index(found[0]))]


def _places(kind: str) -> Iterator[Path]:
    from fairkv_eval.documents.published import repositories

    folders: Mapping[str, Collection[str]] = {
        "models": ("models/*",),
        "statistics": ("statistics/*",),
        "data": (*(f"{name}/*" for name in repositories()), "declared/*"),
        "nltk": ("nltk_data", "nltk_data-*"),
        "index": ("task_index/*",),
        "compiled": ("compiled/*",),
    }
    for pattern in folders[kind]:
        yield from (path for path in cache_dir().glob(pattern) if not path.name.startswith("."))


def _entry(kind: str, path: Path) -> Entry:
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    states = [file.stat() for file in files]
    changed = max((state.st_mtime for state in states), default=path.stat().st_mtime)
    return Entry(kind, path, sum(state.st_size for state in states), changed)


def _list() -> None:
    listed = entries()
    if not listed:
        print(f"nothing is kept in {cache_dir()}")
        return
    table = plain_table()
    for header in ("kind", "size", "age", "path"):
        table.add_column(header, overflow="fold", justify="right" if header in ("size", "age") else "left")
    for entry in listed:
        table.add_row(entry.kind, _size(entry.bytes), _age(time.time() - entry.changed), str(entry.path))
    total = f"{_size(sum(entry.bytes for entry in listed))} in {cache_dir()}; FAIRKV_CACHE names another folder"
    show(console(), [table, "", total])


def _clear(kinds: list[str]) -> None:
    for kind in kinds:
        if kind not in (*KINDS, _EVERY):
            raise unknown("kind", kind, [*KINDS, _EVERY])
    removed = [entry for entry in entries() if entry.kind in kinds or _EVERY in kinds]
    for entry in removed:
        _remove(entry.path)
    print(f"removed {len(removed)} of {len(removed) + len(entries())} entries, {_size(sum(e.bytes for e in removed))}")


def _remove(path: Path) -> None:
    try:
        with writing(path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    except UsageError as error:
        raise UsageError(f"{error}; it is kept") from error


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _age(seconds: float) -> str:
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
