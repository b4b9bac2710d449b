"""The page of a view on a phone, on a desk and at night."""

from __future__ import annotations

from pathlib import Path

import made_view
import pytest
import screens

from fairkv_eval.view.html import render


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "view.html"
    path.write_text(render(made_view.view(segments=4)), encoding="utf-8")
    return path


def test_the_page_asks_its_question_and_explains_its_colours(page: Path) -> None:
    text = page.read_text()
    assert "Which tokens survive <code>tova ratio=0.5</code>?" in text
    assert "kept by no head" in text and "template, between segments" in text
    assert "instruction_number_3: " in text


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_the_screen_and_the_hour(page: Path, width: int, dark: bool) -> None:
    with screens.opened(page, width, dark) as driver:
        assert screens.sticks_out(driver) == []
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.find_element("css selector", "td.map svg").rect["width"] >= 200  # the map is more than a line
        ground, text = (screens.brightness(driver, "body", what) for what in ("backgroundColor", "color"))
        assert (ground < 0.2 and text > 0.8) if dark else (ground > 0.9 and text < 0.2)
        kept = screens.brightness(driver, "td.map path", "fill")
        unkept = screens.brightness(driver, "td.map svg", "backgroundColor")
        assert abs(kept - unkept) > 0.4


@pytest.mark.browser
def test_a_touched_word_says_by_how_many_heads_it_is_kept(page: Path) -> None:
    share = made_view.view(segments=4).mean_share
    with screens.opened(page, 390) as driver:
        driver.find_elements("css selector", "#prompt b")[7].click()
        told = driver.find_element("id", "token").text
        assert told.startswith("token 7, instruction_number_0: kept by ")
        assert abs(int(told.split(" % ")[0].split()[-1]) / 100 - share[7]) < 0.03
