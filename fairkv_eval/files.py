"""Files: written whole or not at all, the folders of declarations, the cache folder, digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path

from fairkv_eval.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent


def folder(path: Path) -> Path:
    """The folder, made where it is missing. UsageError where it cannot be one."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"no folder can be made at {str(path)!r}: {error.strerror}") from error
    return path


def write(path: Path, content: str | bytes) -> Path:
    """Write text (UTF-8) or bytes under a temporary name, then rename it: a reader sees the old file or the new one."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from error
    return path


def resource_dir(name: str) -> Path:
    """The folder `name` ("tasks", "presses") of this installation; FileNotFoundError says where it was looked for."""
    candidates = [_PACKAGE / name]
    # Only a checkout's parent is ours: an installed package's is site-packages, where any project may own "tasks".
    if (_PACKAGE.parent / "pyproject.toml").is_file():
        candidates.append(_PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = " or ".join(str(folder) for folder in candidates)
    raise FileNotFoundError(f"fairkv_eval has no folder {name!r} (looked for {looked}): the installation is incomplete")


def cache_dir() -> Path:
    """FAIRKV_CACHE if set, else the operating system's cache folder for `fairkv-eval`."""
    if folder := os.environ.get("FAIRKV_CACHE"):
        return Path(folder).expanduser()
    import pooch

    return Path(pooch.os_cache("fairkv-eval"))


@lru_cache
def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
