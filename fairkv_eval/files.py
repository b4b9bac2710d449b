"""Files: written whole or not at all, the folders of declarations, the cache folder, digests."""

from __future__ import annotations

import gzip
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO

from fairkv_eval.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise UsageError that names the path and the reason if it cannot be written."""
    if "\0" in str(path):
        raise UsageError(f"cannot write {str(path)!r}: a path has no null character")
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def folder(path: Path) -> Path:
    """The folder, made if it is missing. Raise UsageError if it cannot be made."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_whole(path: Path, make: Callable[[Path], object]) -> Path:
    """Let ``make`` write a draft beside ``path``, a file or a folder, and rename it once it is complete and on disk.

    So a reader sees the old file or the new one, never a part. The draft is opened by ``make``, so its permissions
    follow the umask. Of a folder that several processes write at once the first stays. Raise UsageError if the path
    cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with writing(path):
        try:
            make(draft)
            sync(draft)
            _rename(draft, path)
        finally:
            _remove(draft)
    return path


def sync(path: Path) -> None:
    """Wait until a file is on disk; of a folder, the list of its files. Some disks report only here that they are
    full."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: str | bytes) -> Path:
    """Write text (UTF-8) or bytes, whole or not at all."""
    data = content.encode() if isinstance(content, str) else content
    return write_whole(path, lambda draft: draft.write_bytes(data))


def open_text(path: Path) -> IO[str]:
    """Open a text file (UTF-8) to read; one whose name ends with .gz is decompressed."""
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def _rename(draft: Path, path: Path) -> None:
    try:
        os.replace(draft, path)
    except OSError:
        if not (draft.is_dir() and path.is_dir()):
            raise


def _remove(draft: Path) -> None:
    if draft.is_dir():
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.unlink(missing_ok=True)


def resource_dir(name: str) -> Path:
    """The folder `name` ("tasks", "presses") of this installation. Raise FileNotFoundError with the places searched."""
    candidates = [_PACKAGE / name]
    # Only a checkout's parent is ours: an installed package lies in site-packages, where any project may own "tasks".
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        candidates.append(_PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    places = " or ".join(str(folder) for folder in candidates)
    raise FileNotFoundError(f"fairkv_eval has no folder {name!r} (looked for {places}): the installation is incomplete")


def cache_dir() -> Path:
    """FAIRKV_CACHE if set, else the operating system's cache folder for `fairkv-eval`."""
    if folder := os.environ.get("FAIRKV_CACHE"):
        return Path(folder).expanduser()
    import pooch

    return Path(pooch.os_cache("fairkv-eval"))


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, read once unless it changes."""
    stat = os.stat(path)
    return _sha256(os.fspath(path), (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@lru_cache
def _sha256(path: str, state: tuple[int, ...]) -> str:
    """SHA-256 of a file in a state that `os.stat` describes, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
