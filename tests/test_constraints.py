"""constraints.txt can be used with every Python that pyproject.toml promises."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

CHECKOUT = Path(__file__).resolve().parents[1]
PINS = [
    Requirement(line)
    for line in (CHECKOUT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
_PROMISED = re.search(r'requires-python = ">=([\d.]+)"', (CHECKOUT / "pyproject.toml").read_text())
assert _PROMISED
LOWEST = _PROMISED[1]


def fits(marker: Marker | None, needs: str | None, python: str = LOWEST) -> bool:
    """Whether a pin with this marker leaves a Python alone that its release does not run on."""
    applies = marker is None or marker.evaluate({"python_version": python, "python_full_version": f"{python}.0"})
    return not applies or needs is None or SpecifierSet(needs).contains(f"{python}.0")


@pytest.mark.parametrize("pin", PINS, ids=str)
def test_a_release_that_needs_a_newer_python_is_pinned_for_that_alone(pin: Requirement) -> None:
    try:
        installed = metadata(pin.name)
    except PackageNotFoundError:
        pytest.skip(f"{pin.name} is not installed")
    if installed["Version"] not in pin.specifier:
        pytest.skip(f"{pin.name} {installed['Version']} is installed")
    assert fits(pin.marker, installed.get("Requires-Python")), f"pip of Python {LOWEST} refuses {pin}: add a marker"


def test_what_fits() -> None:
    newer = Marker('python_version >= "3.11"')
    assert fits(None, ">=3.10", "3.10") and fits(None, None, "3.10") and fits(newer, ">=3.11", "3.10")
    assert not fits(None, ">=3.11", "3.10") and not fits(newer, ">=3.12", "3.11")
