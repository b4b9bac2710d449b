"""How the tests run, and fixtures of several test files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import hypothesis
import pytest

# Examples take as long as a busy machine makes them.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
# Before torch is imported. The models are tiny, and each test process has a core of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Started in the background of a shell, tests inherit that Ctrl-C is ignored, and so would what they interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Processes of ``-n auto``: one per core that this one may use, and no more than memory holds (1 GB each)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published files: FAIRKV_DATA, or a shared folder next to the checkout."""
    folder = os.environ.get("FAIRKV_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    if not Path(folder).is_dir():
        pytest.skip("needs the published files: set FAIRKV_DATA")
    monkeypatch.setenv("FAIRKV_DATA", str(Path(folder).resolve()))
