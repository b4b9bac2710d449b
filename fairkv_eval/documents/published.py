"""Published benchmark files: upstream at a pinned commit, or a local folder that mirrors upstream's paths."""

from __future__ import annotations

import csv
import functools
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fairkv_eval.errors import DataError
from fairkv_eval.files import cache_dir

UPSTREAM = "https://raw.githubusercontent.com"
CONNECT_TIMEOUT = 15  # seconds: without a network the error should come soon
DOWNLOAD_TIMEOUT = 600  # seconds for a whole file: a server that sends a byte now and then is no source


@dataclass(frozen=True)
class BenchmarkFile:
    """One published file.

    repository: owner/name on GitHub. commit: the pinned 40 hex digits. path: inside the repository. sha256: of the
    file's bytes. licence: SPDX identifier; the package must not contain files under GPL-3.0.
    """

    repository: str
    commit: str
    path: str
    sha256: str
    licence: str

    @property
    def name(self) -> str:
        """The repository's name without its owner: the folder's name under FAIRKV_DATA."""
        return self.repository.partition("/")[2]

    @property
    def url(self) -> str:
        return f"{UPSTREAM}/{self.repository}/{self.commit}/{quote(self.path)}"

    def __str__(self) -> str:
        return f"{self.name}/{self.path}"


SYS_IFEVAL = BenchmarkFile(
    repository="normster/SystemCheck",
    commit="a8d5ca7ae5dcd0c7176aa5848305d73bf1c4d09b",
    path="evals/ifeval/inputs/sys_ifeval.jsonl",
    sha256="a59435a5f4e1dd23d0cb6f239cba8f19cca59228d95fe29a0aa6bddddba058fc",
    licence="MIT",
)
SYS_IFEVAL_SHUFFLED = BenchmarkFile(
    repository="Itisalex2/pitfalls-of-kv-cache-compression",
    commit="fc0f5df3f1a524a8cac4cf6b56fbec103fcdd1aa",
    path="kv_cache_compression/benchmarks/ifeval/inputs/sys_ifeval_shuffled.jsonl",
    sha256="775602f57a3d326b99fef8d60c6d677265bc14b992b2cc7cd147e8a9c52317d5",
    licence="CC-BY-4.0",
)
DEFENSES = BenchmarkFile(
    repository="Itisalex2/pitfalls-of-kv-cache-compression",
    commit="fc0f5df3f1a524a8cac4cf6b56fbec103fcdd1aa",
    path="kv_cache_compression/benchmarks/raccoon/defenses/defense_template.json",
    sha256="cea7e98713c2b84ad7e6e9a396d48c3e10ba389f92682ce5b3a44a113ce20c66",
    licence="CC-BY-4.0",
)
GSM8K = BenchmarkFile(
    repository="openai/grade-school-math",
    commit="3101c7d5072418e28b9008a6636bde82a006892c",
    path="grade_school_math/data/test.jsonl",
    sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    licence="MIT",
)
FILES = (SYS_IFEVAL, SYS_IFEVAL_SHUFFLED, DEFENSES, GSM8K)

RACCOON_BENCH = "M0gician/RaccoonBench"
RACCOON_COMMIT = "d2ea81e8e5e3a933f3f2cba88d35e47d11c63800"
RACCOON_TABLE = Path(__file__).with_name("raccoon.csv")


@functools.cache
def raccoon_bench(folder: str = "") -> tuple[BenchmarkFile, ...]:
    """RaccoonBench's files (attacks, defenses, GPTs' system prompts) below a folder, ordered by folder and name.

    The package holds only their paths and sha256: their contents are under GPL-3.0.
    """
    with RACCOON_TABLE.open(encoding="utf-8", newline="") as table:
        return tuple(
            BenchmarkFile(RACCOON_BENCH, RACCOON_COMMIT, row["path"], row["sha256"], "GPL-3.0-only")
            for row in csv.DictReader(table)
            if row["path"].startswith(folder)
        )


def repositories() -> list[str]:
    """The names of the folders in the cache folder that published files are kept in."""
    others = {file.name for file in FILES}
    return sorted({*others, RACCOON_BENCH.partition("/")[2]})


def read_file(file: BenchmarkFile) -> bytes:
    """The file's bytes, checked against its sha256.

    Source: `<FAIRKV_DATA>/<repository name>/<path>` if that variable is set; otherwise the cache, and, if the cache
    lacks it, upstream at the pinned commit. Raises DataError if it is missing, damaged or out of reach.
    """
    folder = os.environ.get("FAIRKV_DATA")
    path = Path(folder).expanduser() / file.name / file.path if folder else _fetch(file)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read at {path} ({error.strerror}); FAIRKV_DATA is {folder!r}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != file.sha256:
        raise DataError(
            f"{file}: damaged or truncated, or another version ({len(content):,} bytes at {path}): "
            f"sha256 expected {file.sha256}, found {sha256}"
        )
    return content


def _fetch(file: BenchmarkFile) -> Path:
    """Path of the cached file. Download it first if the cache lacks it or holds something else."""
    import pooch
    import requests

    target = cache_dir() / file.name / file.commit / file.path
    download = pooch.HTTPDownloader(progressbar=True, timeout=CONNECT_TIMEOUT)
    try:
        _in_time(
            lambda: pooch.retrieve(file.url, f"sha256:{file.sha256}", target.name, target.parent, downloader=download)
        )
    except ValueError as error:  # pooch's hash mismatch; it has removed the download
        raise DataError(f"{file}: the download from {file.url} is damaged: {error}") from error
    except (OSError, requests.RequestException) as error:
        raise DataError(
            f"{file}: not in the cache ({cache_dir()}) and not fetched from {file.url} ({_reason(error)}). Either "
            f"set FAIRKV_DATA=<folder> to a folder that holds {file} (sha256 {file.sha256[:12]}…), or run once with a "
            f"network. The task sys_ifeval_demo needs neither."
        ) from error
    return target


def _in_time(download: Callable[[], object]) -> None:
    """Run a download; raise what it raises, or TimeoutError once DOWNLOAD_TIMEOUT is over."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            download()
        except Exception as error:
            errors.append(error)

    # A thread, since a socket's timeout is for the next byte only; a daemon, since it may never end.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_TIMEOUT)
    if thread.is_alive():
        raise TimeoutError(f"not complete after {DOWNLOAD_TIMEOUT:g} seconds")
    if errors:
        raise errors[0]


def _reason(error: BaseException) -> str:
    """The cause in one short line: requests wraps it in several layers of repr."""
    while isinstance(cause := getattr(error, "reason", None) or (error.args or (None,))[0], BaseException):
        error = cause
    return f"{type(error).__name__}: {error}"[:200]
