"""A headless Chromium with the screen of a phone or a desk, by day or by night."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser(*arguments: str) -> Iterator[Any]:
    """A driver of a headless Chromium that logs what its console prints; skips the test if none is installed."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[dev])")
    binary = next((path for path in map(shutil.which, BROWSERS) if path), None)
    chromedriver = shutil.which("chromedriver")
    if not binary or not chromedriver:
        pytest.skip("no Chromium with its chromedriver is installed (apt-get install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", *arguments):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


@contextmanager
def opened(page: Path, width: int, dark: bool = False) -> Iterator[Any]:
    """The page in a browser; skips the test if none is installed."""
    with browser() as driver:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        driver.get(page.absolute().as_uri())
        yield driver


def sticks_out(driver: Any) -> list[str]:
    """What is wider than the screen, but for what moves to the side within a frame of its own."""
    return driver.execute_script(
        """
        const width = document.documentElement.clientWidth;
        const scrolls = node => { for (; node; node = node.parentElement)
          if (["auto", "scroll"].includes(getComputedStyle(node).overflowX)) return true; return false; };
        return [...document.body.querySelectorAll("*")]
          .filter(node => node.getBoundingClientRect().right > width + 1 && !scrolls(node))
          .map(node => node.tagName + " " + (node.id || node.className || node.textContent.slice(0, 30)));
        """
    )


def brightness(driver: Any, selector: str, what: str) -> float:
    """From 0 to 1, of an element's ``color`` or ``backgroundColor``."""
    colour = driver.execute_script(
        "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, what
    )
    numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")][:3]
    return sum(weight * number for weight, number in zip((0.299, 0.587, 0.114), numbers, strict=True)) / 255
