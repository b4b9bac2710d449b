"""Fixtures of several test files."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Started in the background of a shell, tests inherit that Ctrl-C is ignored, and so would what they interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published files: FAIRKV_DATA, or a shared folder next to the checkout."""
    folder = os.environ.get("FAIRKV_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data"
    if not Path(folder).is_dir():
        pytest.skip("needs the published files: set FAIRKV_DATA")
    monkeypatch.setenv("FAIRKV_DATA", str(Path(folder).resolve()))
