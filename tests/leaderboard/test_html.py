"""The leaderboard's page as a reader meets it in a headless Chromium, with a mouse, a keyboard and a phone's screen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import synthetic_results as made

from fairkv_eval.leaderboard.board import build
from fairkv_eval.leaderboard.html import as_html
from fairkv_eval.results.reader import read

pytestmark = pytest.mark.browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INJECTED = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"></script>"
TITLE = "KV-cache compression leaderboard"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[dev])")
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    chromedriver = shutil.which("chromedriver")
    if not browser or not chromedriver:
        pytest.skip("no Chromium with its chromedriver is installed (apt-get install chromium chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1300,1000"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made_driver = selenium.Chrome(options=options, service=selenium.ChromeService(chromedriver))
    yield made_driver
    made_driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("results")
    docs = made.documents(30)
    number = 0
    for task in ("leaks", "follows"):
        for press, ratio, fair in [("none", 0.0, 0.0)] + [
            (press, ratio, fair) for press in ("tova", "knorm") for ratio in (0.3, 0.6) for fair in (0.0, 1.0)
        ]:
            good = round(30 * (1 - ratio * (1.2 if press == "knorm" else 0.5) * (1 - fair / 2)))
            scores = [1.0] * good + [0.0] * (30 - good)
            given = {"press": press, "ratio": ratio, "fair": fair, "task": task, "docs": docs, "scores": scores}
            made.write(folder, **given, responses=[INJECTED] * 30, number=number)
            number += 1
    (folder / "broken<script>.json").write_text("{")
    path = folder / "leaderboard.html"
    path.write_text(as_html(build(read(folder), folder)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(driver: Any, page: str) -> Iterator[Any]:
    driver.set_window_size(1300, 1000)
    driver.get(page)
    yield driver
    assert driver.get_log("browser") == []
    assert driver.title == TITLE


def rows(driver: Any) -> list[list[str]]:
    """The visible text of every result, cell by cell."""
    found = "[...document.querySelectorAll('#board > tbody > tr.result')]"
    return driver.execute_script(f"return {found}.map(r => [...r.cells].map(c => c.innerText))")


def column(driver: Any, name: str) -> list[str]:
    index = driver.execute_script("return document.getElementById(arguments[0]).cellIndex", f"c-{name}")
    return [row[index] for row in rows(driver)]


def series(driver: Any) -> set[str]:
    return set(driver.execute_script("return [...document.querySelectorAll('.series')].map(g => g.dataset.name)"))


def status(driver: Any) -> str:
    return driver.find_element("id", "status").text


def choose(driver: Any, field: str, text: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("id", field)).select_by_visible_text(text)


def test_it_opens_on_one_task_by_rank(opened: Any) -> None:
    assert status(opened) == "9 of 18 results"
    assert column(opened, "press")[0] == "full cache"
    assert [rank.rstrip("=") for rank in column(opened, "rank")] == sorted(
        (rank.rstrip("=") for rank in column(opened, "rank")), key=int
    )
    assert column(opened, "rank")[0] == "1="
    assert any("▼" in cell for cell in column(opened, "full"))
    assert any("▲" in cell for cell in column(opened, "plain"))
    assert "broken<script>.json" in opened.find_element("tag name", "body").text


def test_sorting_by_a_heading(opened: Any) -> None:
    heading = opened.find_element("id", "c-ratio")
    assert heading.get_attribute("aria-sort") == "none"
    for order, key in (("ascending", 1), ("descending", -1)):
        heading.find_element("tag name", "button").click()
        ratios = [float(x) for x in column(opened, "ratio")]
        assert ratios == sorted(ratios, reverse=key < 0)
        assert heading.get_attribute("aria-sort") == order
    assert opened.find_element("id", "c-rank").get_attribute("aria-sort") == "none"


def test_filters_change_table_and_chart(opened: Any) -> None:
    assert series(opened) == {"tova", "tova fair", "knorm", "knorm fair"}
    opened.find_element("css selector", "#presses input[value=tova]").click()
    assert series(opened) == {"tova", "tova fair"}
    assert set(column(opened, "press")) == {"tova"}
    choose(opened, "fair", "fair only")
    assert series(opened) == {"tova fair"}
    assert status(opened) == "2 of 18 results"
    opened.find_element("id", "from").send_keys("0.5")
    assert [float(r) for r in column(opened, "ratio")] == [0.6]
    assert opened.execute_script("return document.querySelectorAll('.series .mark').length") == 1
    choose(opened, "task", "all tasks")
    assert status(opened) == "2 of 18 results"
    assert set(column(opened, "task")) == {"leaks", "follows"}
    assert len(opened.find_elements("tag name", "figure")) == 2
    opened.find_element("id", "to").send_keys("0.55")
    assert status(opened) == "0 of 18 results"
    assert "no result passes" in opened.find_element("id", "charts").text
    opened.find_element("css selector", "button[type=reset]").click()
    opened.execute_async_script("setTimeout(arguments[0], 50)")
    assert status(opened) == "9 of 18 results"


def test_another_metric(opened: Any) -> None:
    choose(opened, "metric", "kv_bytes_kept")
    assert opened.find_element("id", "c-value").text.startswith("kv_bytes_kept")
    assert "2,800,000" in " ".join(column(opened, "value"))
    assert "kv_bytes_kept" in opened.find_element("tag name", "figcaption").text


def test_responses_stay_text(opened: Any) -> None:
    opened.find_elements("css selector", ".open")[2].click()
    shown = [block.text for block in opened.find_elements("css selector", ".response")]
    assert shown == [INJECTED] * 3
    assert opened.execute_script("return document.querySelectorAll('pre *').length") == 0
    assert opened.execute_script("return document.scripts.length") == 2
    assert "lm_eval --model fairkv" in opened.find_element("css selector", ".inside pre").text


def test_with_the_keyboard_alone(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    first = opened.find_element("css selector", "tr.result .open")
    first.send_keys(Keys.ENTER)
    assert first.get_attribute("aria-expanded") == "true"
    assert opened.find_elements("css selector", ".details")
    first.send_keys(Keys.SPACE)
    assert first.get_attribute("aria-expanded") == "false"
    assert not opened.find_elements("css selector", ".details")
    opened.find_element("css selector", "#c-press button").send_keys(Keys.ENTER)
    assert column(opened, "press") == sorted(column(opened, "press"))


def test_every_control_has_a_name(opened: Any) -> None:
    nameless = """return [...document.querySelectorAll('select, input, button')].filter(
        e => !e.labels?.[0]?.innerText.trim() && !e.innerText.trim() && !e.ariaLabel).length"""
    assert opened.execute_script(nameless) == 0
    assert opened.execute_script("return [...document.querySelectorAll('svg[role=img]')].every(e => e.ariaLabel)")
    assert opened.execute_script("return document.documentElement.lang") == "en"


def test_on_a_phone(driver: Any, page: str) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        driver.get(page)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert "knorm fair" in driver.find_element("class name", "legend").text
        driver.find_element("css selector", "tr.result .open").click()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert driver.get_log("browser") == []
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_asked_of_a_network(page: str) -> None:
    text = Path(page.removeprefix("file://")).read_text()
    assert "default-src 'none'" in text
    assert "http://www.w3.org/2000/svg" in text and text.count("http") == 2  # and the policy's http-equiv


def test_parameters_are_named_only_where_they_differ_and_labels_are_whole(driver: Any, tmp_path: Path) -> None:
    windows = [("snapkv", {"window": 16}), ("chunkkv", {"chunk_length": 20, "window": 16}), ("chunkkv", {"window": 8})]
    policies = [("none", {}, 0.0)] + [(press, given, fair) for press, given in windows for fair in (0.0, 1.0)]
    for number, (press, given, fair) in enumerate(policies):
        ratio = 0.0 if press == "none" else 0.5
        made.write(tmp_path, press=press, parameters=given, ratio=ratio, fair=fair, number=number)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    driver.set_window_size(1300, 1000)
    driver.get(path.as_uri())
    long = "chunkkv(chunk_length=20,window=16)"
    assert set(column(driver, "press")) == {"full cache", "snapkv", long, "chunkkv(window=8)"}
    assert series(driver) == {
        f"{name}{fair}" for name in ("snapkv", long, "chunkkv(window=8)") for fair in ("", " fair")
    }
    clipped = """return [...document.querySelectorAll('figure svg text')].filter((text) =>
        text.getBoundingClientRect().right > text.closest('svg').getBoundingClientRect().right
    ).map((text) => text.firstChild.data)"""
    assert driver.execute_script(clipped) == []
    driver.find_element("css selector", "tr.result button.open").click()
    assert driver.get_log("browser") == []
