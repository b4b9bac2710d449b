"""The leaderboard's page as a reader meets it in a headless Chromium, with a mouse, a keyboard and a phone's screen."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import screens
import synthetic_results as made

from fairkv_eval.leaderboard.board import build
from fairkv_eval.leaderboard.html import TITLE, as_html
from fairkv_eval.results.reader import read

pytestmark = pytest.mark.browser

INJECTED = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"></script>"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with screens.browser("--window-size=1300,1000") as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A task of instructions and one of leak preference under two presses, plain and fair, at two sizes."""
    folder = tmp_path_factory.mktemp("results")
    docs = made.documents(30)
    number = 0
    for task, metric in (("leaks", "margin"), ("follows", "prompt_level_strict_acc")):
        for press, ratio, fair in [("none", 0.0, 0.0)] + [
            (press, ratio, fair) for press in ("tova", "knorm") for ratio in (0.3, 0.6) for fair in (0.0, 1.0)
        ]:
            good = round(30 * (1 - ratio * (1.2 if press == "knorm" else 0.5) * (1 - fair / 2)))
            scores = [1.0] * good + [0.0] * (30 - good)
            given = {"press": press, "ratio": ratio, "fair": fair, "task": task, "docs": docs, "scores": scores}
            if press == "tova":
                given["fairkv"] = {"positions": "contiguous"}
            made.write(folder, **given, more={metric: scores}, responses=[INJECTED] * 30, number=number)
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


def opened_at(driver: Any, page: str, address: str) -> Any:
    """The page at an address behind the #, loaded anew."""
    driver.get("about:blank")
    driver.get(f"{page}#{address}")
    return driver


def texts(driver: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    return driver.execute_script(script, selector)


def shown_numbers(driver: Any, name: str) -> list[float]:
    return [float(re.sub(r"[▲▼ %]", "", cell).split("±")[0]) for cell in column(driver, name)]


def test_it_opens_on_both_sides_at_equal_bytes(opened: Any) -> None:
    assert status(opened) == "9 of 9 policies"
    assert texts(opened, "#levels label") == ["70 %", "40 %"]
    assert visible(opened, "#equal .head") == ["Follows instructions ↑ %", "Keeps the secret ↑ %"]
    assert texts(opened, "#equal svg:first-child .name title") == ["tova, positions=contiguous", "knorm"]
    assert opened.execute_script("return document.querySelectorAll('#equal svg:first-child .mark').length") == 4
    assert [card.splitlines()[0] for card in visible(opened, ".card")] == [
        "40 %",
        "Follows instructions ↑",
        "Keeps the secret ↑",
        "Fair against plain",
    ]
    assert "broken<script>.json" in opened.find_element("tag name", "body").text


def test_both_sides_stand_side_by_side_at_any_width(driver: Any, page: str) -> None:
    for width in range(1280, 1300, 3):  # the room for them is seldom a whole number of pixels
        driver.set_window_size(width, 1000)
        driver.get(page)
        tops = driver.execute_script(
            "return [...document.querySelectorAll('#equal > svg')].map((panel) => panel.getBoundingClientRect().top)"
        )
        assert len(tops) == 2 and tops[0] == tops[1], width


def visible(driver: Any, selector: str) -> list[str]:
    return [element.text for element in driver.find_elements("css selector", selector)]


def test_the_table_opens_by_equal_bytes_and_the_overall_average(opened: Any) -> None:
    assert [cell[:3] for cell in column(opened, "held")] == ["100", *["70."] * 4, *["40."] * 4]
    overall = shown_numbers(opened, "overall")
    for part in (overall[1:5], overall[5:]):
        assert part == sorted(part, reverse=True)
    assert opened.find_element("id", "c-held").get_attribute("aria-sort") == "descending"
    starts = opened.execute_script("return [...document.querySelectorAll('tr.starts')].map(r => r.rowIndex)")
    assert starts == [1, 2, 6]
    assert any("▼" in cell for cell in column(opened, "task-leaks"))


def test_a_mark_says_what_the_tests_say_if_the_average_agrees(driver: Any, tmp_path: Path) -> None:
    """tova is better on one task and worse on the other, and worse on average: its mark is that of the average."""
    scores = {"a": {"none": 20, "tova": 34, "knorm": 34}, "b": {"none": 40, "tova": 24, "knorm": 40}}
    docs = made.documents(40)
    for number, (task, press) in enumerate((name, press) for name, presses in scores.items() for press in presses):
        values = [1.0] * scores[task][press] + [0.0] * (40 - scores[task][press])
        ratio = 0.0 if press == "none" else 0.5
        made.write(tmp_path, task=task, press=press, ratio=ratio, docs=docs, scores=values, number=number)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "")
    shown = dict(zip(visible(driver, "#equal .name"), texts(driver, "#equal .plain-text")[1:], strict=True))
    assert shown == {"knorm": "▲ 92.5", "tova": "▼ 72.5"}
    assert "2 ▲ better, 1 ▼ worse of 4" in " ".join(visible(driver, ".card"))


def test_the_page_opens_where_most_averages_can_be_compared(driver: Any, tmp_path: Path) -> None:
    """Not at the size of most presses, if they have one of two averages there."""
    both, one = [("none", 0.0), ("tova", 0.5), ("knorm", 0.5)], [("tova", 0.7), ("knorm", 0.7), ("h2o", 0.7)]
    shares = {"follows": "prompt_level_strict_acc", "leaks": "margin"}
    cells = [(*cell, task) for cell in both for task in shares] + [(*cell, "leaks") for cell in one]
    for number, (press, ratio, task) in enumerate(cells):
        more = {shares[task]: [0.0, 1.0] * 4}
        made.write(tmp_path, press=press, ratio=ratio, task=task, more=more, number=number)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "")
    assert texts(driver, "#levels label") == ["50 %", "30 %"]
    assert driver.find_element("css selector", "#levels input:checked").get_attribute("value") == "50"


def test_measured_bytes_decide_what_is_equal_not_ratios(driver: Any, tmp_path: Path) -> None:
    """Pairs stored in fewer bits hold fewer bytes than their ratio says; what holds other bytes is not drawn beside."""
    policies = (("none", 0.0, 4e6), ("tova", 0.75, 1e6), ("knorm", 0.5, 1e6), ("h2o", 0.5, 2e6))
    for number, (press, ratio, held) in enumerate(policies):
        path = made.write(tmp_path, press=press, ratio=ratio, number=number)
        result = json.loads(path.read_text())
        result["results"][made.TASK]["kv_bytes_kept,none"] = held
        path.write_text(json.dumps(result))
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "level=25")
    assert texts(driver, "#levels label") == ["50 %", "25 %"]
    assert set(visible(driver, "#equal .name")) == {"tova", "knorm"}
    assert "Ratio" not in visible(driver, ".card")[0]
    driver.find_elements("css selector", "#levels label")[0].click()
    assert visible(driver, "#equal .name") == ["h2o"]
    assert "Ratio 0.5, 1 policy." in visible(driver, ".card")[0]


def test_of_each_press_the_highest_degree_and_the_most_bytes_are_drawn(driver: Any, tmp_path: Path) -> None:
    policies = [("none", 0.0, 0.0), *(("tova", ratio, fair) for ratio in (0.5, 0.6) for fair in (0.0, 0.5, 1.0))]
    for number, (press, ratio, fair) in enumerate(policies):
        made.write(tmp_path, press=press, ratio=ratio, fair=fair, number=number)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "level=50")
    labels = [label.partition(":")[0] for label in texts(driver, "#equal .mark title")]
    assert labels == ["tova plain, 50.0 % held", "tova fair, 50.0 % held"]
    assert series(driver) == {"tova plain", "tova fair 0.5", "tova fair"}


def test_storage_in_fewer_bits_stands_beside_eviction(driver: Any, tmp_path: Path) -> None:
    """Policies without a press that hold fewer bits are no full cache, and are compared at the bytes they hold."""
    stored = [(16, 4e6), (8, 2e6), (4, 1e6), (2, 5e5)]
    policies = [("none", 0.0, 0.0, bits, held) for bits, held in stored]
    policies += [("tova", ratio, fair, 16, 4e6 * (1 - ratio)) for ratio in (0.5, 0.75) for fair in (0.0, 1.0)]
    policies += [("tova", 0.5, fair, 4, 5e5) for fair in (0.0, 1.0)]
    for number, (press, ratio, fair, bits, held) in enumerate(policies):
        more = {"kv_bits": bits, "kv_scheme": "per_token"}
        path = made.write(tmp_path, press=press, ratio=ratio, fair=fair, fairkv=more, number=number)
        result = json.loads(path.read_text())
        result["results"][made.TASK]["kv_bytes_kept,none"] = held
        path.write_text(json.dumps(result))
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "level=25")
    assert texts(driver, "#levels label") == ["50 %", "25 %", "15 %"]
    assert set(texts(driver, "#equal .name title")) == {"tova", "no eviction, kv_bits=4"}
    opened_at(driver, path.as_uri(), "level=50")  # 4 bits use less than two thirds of it
    assert set(texts(driver, "#equal .name title")) == {"tova", "no eviction, kv_bits=8"}
    # One line through all numbers of bits without a press, one for the press at several ratios, one for both.
    assert series(driver) == {
        "no eviction –",
        "tova plain",
        "tova fair",
        "tova, kv_bits=4 plain",
        "tova, kv_bits=4 fair",
    }
    assert driver.execute_script("return document.querySelectorAll('[data-name^=no] .mark').length") == 3
    assert sorted(set(column(driver, "with-kv_bits"))) == ["16", "2", "4", "8"]
    driver.find_element("css selector", "#more summary").click()
    choose(driver, "with-kv_bits", "4")
    assert status(driver) == "4 of 10 policies"
    assert column(driver, "press")[0].startswith("full cache")
    driver.find_element("css selector", "tr.result .open").click()
    assert driver.get_log("browser") == []


def test_another_level_of_bytes(opened: Any) -> None:
    before = texts(opened, "#equal .plain-text")
    opened.find_elements("css selector", "#levels label")[0].click()
    assert visible(opened, ".card")[0].startswith("70 %")
    assert texts(opened, "#equal .plain-text") != before
    assert opened.current_url.endswith("#level=70")


def test_an_arrow_leads_from_plain_to_fair(opened: Any) -> None:
    assert len(opened.find_elements("css selector", "#pareto .arrow")) == 2
    assert set(texts(opened, "#pareto .name, #pareto .tick")) >= {"knorm", "full cache"}
    # tova fair is best in both, so it alone is the frontier, and knorm's arrow rises to the right.
    assert "H" not in opened.find_element("css selector", ".frontier").get_attribute("d")
    line = opened.find_elements("css selector", "#pareto .arrow")[1]
    x1, y1, x2, y2 = (float(line.get_attribute(name)) for name in ("x1", "y1", "x2", "y2"))
    assert x1 < x2 and y1 > y2


def test_one_task_by_value_with_brackets(opened: Any) -> None:
    choose(opened, "task", "leaks")
    values = shown_numbers(opened, "value")
    assert values == sorted(values, reverse=True)
    brackets = [cell.strip() for cell in column(opened, "rank")]
    assert brackets[0].startswith("1–") and brackets[-1] != brackets[0]
    places = [range(int(cell.split("–")[0]), int(cell.split("–")[-1]) + 1) for cell in brackets]
    assert all(place in bracket for place, bracket in enumerate(places, 1))
    assert opened.find_element("id", "c-rank").get_attribute("aria-sort") == "ascending"
    assert any("▼" in cell for cell in column(opened, "full"))
    assert any("▲" in cell for cell in column(opened, "plain"))
    assert not opened.find_element("id", "pareto").is_displayed()
    assert len(opened.find_elements("css selector", "tr.tied")) >= 2


def test_sorting_by_a_heading(opened: Any) -> None:
    heading = opened.find_element("id", "c-ratio")
    assert heading.get_attribute("aria-sort") == "none"
    for order, key in (("ascending", 1), ("descending", -1)):
        heading.find_element("tag name", "button").click()
        ratios = [float(x) for x in column(opened, "ratio")]
        assert ratios == sorted(ratios, reverse=key < 0)
        assert heading.get_attribute("aria-sort") == order
    assert opened.find_element("id", "c-held").get_attribute("aria-sort") == "none"
    opened.find_element("css selector", "#c-overall button").click()  # what is better when higher begins with the best
    assert shown_numbers(opened, "overall") == sorted(shown_numbers(opened, "overall"), reverse=True)


def test_filters_change_table_and_chart(opened: Any) -> None:
    both = {"tova, positions=contiguous", "knorm"}
    assert series(opened) == {f"{name} {fair}" for name in both for fair in ("plain", "fair")}
    opened.find_element("css selector", "#more summary").click()
    opened.find_element("css selector", "#presses input[value=tova]").click()
    assert {name.split(",")[0] for name in series(opened)} == {"tova"}
    assert {cell.split()[0] for cell in column(opened, "press")} == {"tova"}
    choose(opened, "fair", "fair only")
    assert series(opened) == {"tova, positions=contiguous fair"}
    assert status(opened) == "2 of 9 policies"
    opened.find_element("id", "to").send_keys("50")
    assert [float(r) for r in column(opened, "ratio")] == [0.6]
    assert opened.execute_script("return document.querySelectorAll('.series .mark').length") == 1
    opened.find_element("id", "from").send_keys("45")
    assert status(opened) == "0 of 9 policies"
    assert "no result passes" in opened.find_element("id", "sizes").text
    opened.find_element("css selector", "button[type=reset]").click()
    opened.execute_async_script("setTimeout(arguments[0], 50)")
    assert status(opened) == "9 of 9 policies"
    assert "#" not in opened.current_url


def test_search(opened: Any) -> None:
    search = opened.find_element("id", "search")
    search.send_keys("TOVA fair=1 0.6")
    assert status(opened) == "1 of 9 policies"
    assert opened.current_url.endswith("#search=TOVA+fair%3D1+0.6")
    search.clear()
    search.send_keys("nothing like it")
    assert status(opened) == "0 of 9 policies"


def test_arguments_in_which_policies_differ_are_columns_and_filters(opened: Any) -> None:
    assert set(column(opened, "with-positions")) == {"contiguous", "original"}
    opened.find_element("css selector", "#more summary").click()
    choose(opened, "with-positions", "contiguous")
    assert status(opened) == "5 of 9 policies"  # with the full cache
    assert "with-positions=contiguous" in opened.current_url
    assert not opened.find_elements("id", "with-keep")  # the same everywhere


def test_a_link_keeps_filter_and_order(driver: Any, page: str) -> None:
    address = "task=leaks&metric=margin&fair=plain&press=knorm&with-positions=original&level=70&sort=-ratio"
    opened_at(driver, page, address)
    assert status(driver) == "2 of 9 policies"
    assert [float(ratio) for ratio in column(driver, "ratio")] == [0.6, 0.3]
    assert visible(driver, ".card")[0].startswith("70 %")
    assert driver.find_element("id", "more").get_attribute("open") is not None
    # The address is as it was once something is changed and changed back.
    choose(driver, "fair", "fair only")
    choose(driver, "fair", "plain only")
    assert set(driver.current_url.partition("#")[2].split("&")) == set(address.split("&"))
    driver.execute_script("location.hash = '#task=follows'")
    driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert (
        status(driver) == "9 of 9 policies" and "prompt_level_strict_acc" in driver.find_element("id", "c-value").text
    )
    assert driver.get_log("browser") == []


@pytest.mark.parametrize("address", ["task=nowhere&metric=x&level=3&sort=nothing&fair=maybe&press=<b>", "%%%", "task"])
def test_an_address_that_the_page_does_not_know(driver: Any, page: str, address: str) -> None:
    opened_at(driver, page, address)
    assert status(driver) == "9 of 9 policies"
    assert driver.get_log("browser") == []


def test_another_metric(opened: Any) -> None:
    choose(opened, "task", "follows")
    choose(opened, "metric", "kv_bytes_kept")
    assert opened.find_element("id", "c-value").text == "kv_bytes_kept"
    assert "2,800,000" in " ".join(column(opened, "value"))
    assert set(column(opened, "rank")) == {"–"}
    assert "kv_bytes_kept" in " ".join(texts(opened, "#equal .head"))


def test_the_figures_at_every_size_show_what_is_chosen(opened: Any) -> None:
    assert opened.find_element("id", "sizes-note").text.startswith("Follows instructions ↑ (mean of ")
    opened.find_elements("css selector", "#aspects label")[1].click()
    assert opened.find_element("id", "sizes-note").text == "Keeps the secret ↑ (mean of acc of leaks)."
    assert "aspect=protection" in opened.current_url


def test_responses_stay_text(opened: Any) -> None:
    choose(opened, "task", "leaks")
    opened.find_elements("css selector", ".open")[2].click()
    shown = [block.text for block in opened.find_elements("css selector", ".response")]
    assert shown == [INJECTED] * 3
    assert opened.execute_script("return document.querySelectorAll('pre *').length") == 0
    assert opened.execute_script("return document.scripts.length") == 2
    assert "lm_eval --model fairkv" in opened.find_element("css selector", ".inside pre").text


def test_details_of_all_tasks(opened: Any) -> None:
    opened.find_element("css selector", ".open").click()
    assert visible(opened, ".inside summary") == ["follows", "leaks"]
    assert (
        opened.find_element("css selector", ".inside dl a").get_attribute("href")
        == f"https://huggingface.co/{made.MODEL}"
    )


def test_what_is_shown_can_be_downloaded(opened: Any) -> None:
    opened.find_element("id", "search").send_keys("knorm")
    text = opened.execute_script("const c = chosen(); return csvOf(ordered(rowsOf(c), c), c)")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["press"] for line in lines] == ["knorm"] * 4
    assert float(lines[0]["held"]) == 0.7
    opened.find_element("id", "download").click()  # no complaint of the browser
    assert texts(opened, ".downloads a") == ["CSV", "JSON", "Markdown"]


def test_with_the_keyboard_alone(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    first = opened.find_element("css selector", "tr.result .open")
    first.send_keys(Keys.ENTER)
    assert first.get_attribute("aria-expanded") == "true"
    assert opened.find_elements("css selector", ".details")
    first.send_keys(Keys.SPACE)
    assert first.get_attribute("aria-expanded") == "false"
    assert not opened.find_elements("css selector", "tr.details")
    opened.find_element("css selector", "#c-press button").send_keys(Keys.ENTER)
    assert column(opened, "press") == sorted(column(opened, "press"))
    opened.find_element("css selector", "#levels input:checked").send_keys(Keys.ARROW_LEFT)
    assert visible(opened, ".card")[0].startswith("70 %")
    opened.find_element("id", "skip").send_keys(Keys.ENTER)
    assert opened.execute_script("return document.activeElement.id") == "results"
    assert status(opened) == "9 of 9 policies"


def test_every_control_has_a_name(opened: Any) -> None:
    nameless = """return [...document.querySelectorAll('select, input, button')].filter(
        e => !e.labels?.[0]?.textContent.trim() && !e.textContent.trim() && !e.ariaLabel).length"""
    assert opened.execute_script(nameless) == 0
    assert opened.execute_script("return [...document.querySelectorAll('svg[role=img]')].every(e => e.ariaLabel)")
    assert opened.execute_script("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("address", ["", "task=leaks"])
def test_contrast(driver: Any, page: str, scheme: str, address: str) -> None:
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    try:
        opened_at(driver, page, address)
        driver.find_element("css selector", "tr.result .open").click()
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(20, 23, 26)") == (scheme == "dark")
        faint = [found for found in driver.execute_script(CONTRASTS) if found[1] < 4.5]
        assert faint == []
    finally:
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


CONTRASTS = """
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => numbers(colour).slice(0, 3).map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92
    : ((c + 0.055) / 1.055) ** 2.4).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return e.parentElement && numbers(colour)[3] === 0 ? behind(e.parentElement) : colour;
};
const texts = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()
    && !e.matches('script, select:disabled, title')
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
return texts.map((e) => {
    const style = getComputedStyle(e);
    const pair = [light(e.ownerSVGElement ? style.fill : style.color), light(behind(e))].sort((a, b) => b - a);
    const name = `${e.tagName} ${e.className?.baseVal ?? e.className} ${e.textContent.slice(0, 30)}`;
    return [name, (pair[0] + 0.05) / (pair[1] + 0.05)];
});
"""


@pytest.mark.parametrize("address", ["", "task=leaks"])
def test_all_columns_are_reached_at_1440(driver: Any, page: str, address: str) -> None:
    desk = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", desk)
    try:
        opened_at(driver, page, address)
        cells = "[...document.querySelectorAll('#board th, #board td')]"
        assert driver.execute_script(f"return Math.max(...{cells}.map(c => c.getBoundingClientRect().right))") <= 1440
        script = "const s = document.querySelector('.scroll'); return [s.scrollWidth, s.clientWidth]"
        assert len(set(driver.execute_script(script))) == 1
        driver.execute_script(
            "const s = document.querySelector('.scroll'); s.style.maxHeight = '200px'; s.scrollTop = 150"
        )
        boxes = "[...document.querySelectorAll('.scroll, #board thead th:not(.of-model)')]"
        scroll, *heads = driver.execute_script(f"return {boxes}.map(e => Math.round(e.getBoundingClientRect().top))")
        assert {abs(head - scroll) for head in heads} <= {0, 1}  # the heading sticks
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_on_a_phone(driver: Any, page: str) -> None:
    phone = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    try:
        for address, name in (("", "following"), ("task=leaks", "value")):
            opened_at(driver, page, address)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
            # A value is on the screen beside the policy, without a scroll to the side.
            box = f"document.querySelector('tbody .of-{name}').getBoundingClientRect()"
            left, right = driver.execute_script(f"return [{box}.left, {box}.right]")
            policy = driver.execute_script("return document.querySelector('tbody th').getBoundingClientRect().right")
            assert policy <= left < right <= 390
            assert "fair 0.6" in " ".join(column(driver, "press"))
        driver.find_element("css selector", "tr.result .open").click()
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 390
        assert driver.get_log("browser") == []
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_nothing_is_asked_of_a_network(page: str) -> None:
    text = Path(page.removeprefix("file://")).read_text()
    assert "default-src 'none'" in text
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"\ssrc=|@import|url\(", markup)
    links = set(re.findall(r'href="([^"#]*)"', markup)) - {""}
    files = {f"leaderboard.{ending}" for ending in ("csv", "json", "md")}
    assert links == {"data:,", f"https://huggingface.co/{made.MODEL}", *files}


def test_the_tasks_are_explained(driver: Any, tmp_path: Path) -> None:
    made.write(tmp_path, task="raccoon_plain", more={"leak@0.8": [0.0] * 8})
    made.write(tmp_path, task="boolq", number=1)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "task=raccoon_plain")
    assert "forbids to disclose" in driver.find_element("id", "task-note").text
    assert "forbids to disclose" in driver.find_element("css selector", ".tasks").text
    assert "8 documents" in driver.find_element("css selector", ".tasks").text
    assert driver.get_log("browser") == []


def test_parameters_are_named_only_where_they_differ_and_labels_are_whole(driver: Any, tmp_path: Path) -> None:
    windows = [("snapkv", {"window": 16}), ("chunkkv", {"chunk_length": 20, "window": 16}), ("chunkkv", {"window": 8})]
    policies = [("none", {}, 0.0)] + [(press, given, fair) for press, given in windows for fair in (0.0, 1.0)]
    for number, (press, given, fair) in enumerate(policies):
        ratio = 0.0 if press == "none" else 0.5
        made.write(tmp_path, press=press, parameters=given, ratio=ratio, fair=fair, number=number)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    driver.set_window_size(1300, 1000)
    opened_at(driver, path.as_uri(), "")
    long = "chunkkv(chunk_length=20,window=16)"
    assert set(column(driver, "press")) == {"full cache", "snapkv", long, "chunkkv(window=8)"}
    assert set(
        driver.execute_script("return [...document.querySelectorAll('#equal .name title')].map(t => t.textContent)")
    ) == {
        "snapkv",
        long,
        "chunkkv(window=8)",
    }
    clipped = """return [...document.querySelectorAll('svg text')].filter((text) =>
        text.getBoundingClientRect().right > text.closest('svg').getBoundingClientRect().right + 1
    ).map((text) => text.firstChild.data)"""
    assert driver.execute_script(clipped) == []
    driver.find_element("css selector", "tr.result button.open").click()
    assert driver.get_log("browser") == []


def test_several_models_and_one_without_averages(driver: Any, tmp_path: Path) -> None:
    for number, (model, press) in enumerate((m, p) for m in ("a/one", "b/two") for p in ("none", "tova")):
        made.write(
            tmp_path, model=model, press=press, ratio=0.5 if press == "tova" else 0.0, scores=[3.0] * 8, number=number
        )
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "")
    assert status(driver) == "4 of 4 policies"
    assert "a/one" in driver.find_element("id", "figures-of").text
    assert set(column(driver, "model")) == {"a/one", "b/two"}
    choose(driver, "model", "b/two")
    assert status(driver) == "2 of 4 policies" and driver.find_element("id", "figures-of").text == ""
    assert driver.find_element("id", "task").get_attribute("value") == made.TASK
    assert driver.get_log("browser") == []


def test_policies_without_an_average_are_counted_not_drawn(driver: Any, tmp_path: Path) -> None:
    cells = [(press, task) for press in ("none", "tova") for task in ("first", "second")] + [("knorm", "first")]
    for number, (press, task) in enumerate(cells):
        ratio = {"none": 0.0, "tova": 0.5, "knorm": 0.3}[press]
        more = {"prompt_level_strict_acc": [0.0, 1.0] * 4}
        made.write(tmp_path, press=press, ratio=ratio, task=task, more=more, number=number)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "")
    assert texts(driver, "#equal .name") == ["tovatova"]  # with its hint
    assert texts(driver, "#levels label") == ["50 %"]
    assert driver.find_element("id", "figures-of").text.startswith("1 of 3 policies lack a task")
    driver.find_element("id", "search").send_keys("knorm")
    assert texts(driver, "#equal .note") == ["Nothing to draw: no policy that passes the filter has an average."]
    choose(driver, "task", "first")
    assert texts(driver, "#equal .name") == ["knormknorm"]
    assert driver.find_element("id", "figures-of").text == ""
    assert driver.get_log("browser") == []


def test_figures_are_of_the_model_with_the_most_results(driver: Any, tmp_path: Path) -> None:
    cells = [("a/one", 0.5, "first"), *(("b/two", ratio, task) for ratio in (0.3, 0.5) for task in ("first", "second"))]
    cells += [("a/one", 0.0, "first"), ("b/two", 0.0, "first"), ("b/two", 0.0, "second")]
    for number, (model, ratio, task) in enumerate(cells):
        press = "tova" if ratio else "none"
        made.write(tmp_path, model=model, press=press, ratio=ratio, task=task, number=number)
    path = tmp_path / "leaderboard.html"
    path.write_text(as_html(build(read(tmp_path), tmp_path)), encoding="utf-8")
    opened_at(driver, path.as_uri(), "")
    assert "b/two" in driver.find_element("id", "figures-of").text
    choose(driver, "model", "a/one")
    assert driver.find_element("id", "figures-of").text == ""
