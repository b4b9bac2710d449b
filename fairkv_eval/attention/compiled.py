"""C++ files of this package, compiled on the user's machine when they are first used, and kept in the cache folder.

A file has a plain C interface and includes nothing of torch, so that it compiles in seconds. Its loops run on the
threads of torch's own OpenMP: the file is linked without a second one, which would compete with it for the cores.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

from fairkv_eval.errors import UsageError
from fairkv_eval.files import cache_dir, folder, write

KIND = "compiled"  # its folder in the cache
_FLAGS = ("-O3", "-std=c++17", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
# By what torch has found on this processor; a library is shared by machines only if it found the same.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    "AVX2": ("-mavx2", "-mfma"),
}


@lru_cache
def library(source: Path) -> ctypes.CDLL:
    """The library of a C++ file. UsageError, with the reason, if it cannot be compiled or loaded here."""
    compiler = shlex.split(os.environ.get("CXX", "")) or [*filter(None, map(shutil.which, ("g++", "c++")))][:1]
    if not compiler:
        raise UsageError("there is no C++ compiler (g++, or what CXX names)")
    flags = [*_FLAGS, "-Wno-psabi", *INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), ())]
    parts = (source.read_text(), _run([*compiler, "--version"]), *flags, platform.machine(), torch.__version__)
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    kept = cache_dir() / KIND / f"{source.stem}-{digest}.so"
    if kept.is_file():
        with suppress(UsageError):  # a machine with another C library may share the folder, or the disk was full
            return _loaded(kept)
    with tempfile.TemporaryDirectory() as drafts:
        unlinked, linked = Path(drafts, "unlinked.o"), Path(drafts, kept.name)
        _run([*compiler, *flags, "-c", str(source), "-o", str(unlinked)])
        _run([*compiler, "-shared", str(unlinked), "-o", str(linked)])
        _loaded(linked)  # before it is kept
        try:
            return _loaded(write(folder(kept.parent) / kept.name, linked.read_bytes()))
        except UsageError:  # a folder that cannot be written costs a compilation in every run
            return _loaded(linked)


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise UsageError(f"what was compiled cannot be loaded: {error}") from error


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise UsageError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["-"]
        raise UsageError(f"{command[0]} fails: {reasons[0]}")
    return done.stdout
