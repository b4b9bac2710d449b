"""Peak memory of this process (Linux). For the standard library alone: kvpress's worker imports it too."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def peak_kib() -> int:
    """Largest resident size so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(work: Callable[[], Any]) -> dict[str, float]:
    """Run ``work``; resident MiB before it (``baseline``) and at its largest (``peak``).

    Loading a model takes more than holding it, so that peak is forgotten first; where the kernel does not allow it
    and the load's peak hides the work's, this is an error and no figure.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else what the load freed would be used again, unseen
    before = peak_kib()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    baseline = peak_kib()
    work()
    peak = peak_kib()
    if baseline == before == peak:
        raise RuntimeError("the peak of loading the model hides the peak of the work")
    return {"baseline": baseline / 1024, "peak": peak / 1024}
