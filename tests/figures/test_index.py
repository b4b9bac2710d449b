"""The page of figures: whole, escaped, in reading order, on a phone and at night."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import screens

from fairkv_eval.figures.figure import Figure, Horizontal, Panel, Row, Series
from fairkv_eval.figures.index import page
from fairkv_eval.figures.plotting import save

NAMES = [f"a_press_{i}" for i in range(5)]
BAD = "<script>document.title = 'taken'</script>"


def figure(name: str, question: str) -> Figure:
    line = Series("plain", (1.0, 0.5), (0.5, 0.4), (0.4, 0.3), (0.6, 0.5), 0)
    rows = (Row("a task: accuracy", tuple(Panel(name, (line,)) for name in NAMES), True),)
    return Figure(name, question, "How to read it.", Horizontal("bytes held", True), rows, "a/model · 8 documents")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures")
    made = [figure("first", "Is it so?"), figure("second", f"Or so? {BAD}")]
    for one in made:
        save(one, folder)
    (folder / "index.html").write_text(page(f"a/model {BAD}", made, ["third: needs data"], folder))
    return folder / "index.html"


def test_the_page_needs_nothing_else_and_runs_nothing(written: Path) -> None:
    text = written.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text
    sources = re.findall(r'(?:src|srcset|href)="([^"]{1,30})', text)
    assert len(sources) == 6 and all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert text.index('id="first"') < text.index('id="second"') < text.index("third: needs data")
    assert 'alt="Is it so? Columns: a_press_0, a_press_1' in text


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1440])
def test_the_page_fits_the_screen_and_the_hour(written: Path, width: int, dark: bool) -> None:
    with screens.opened(written, width, dark) as driver:
        assert screens.sticks_out(driver) == [] and driver.title.startswith("Figures: ")
        ground, text = (screens.brightness(driver, "body", what) for what in ("backgroundColor", "color"))
        assert (ground < 0.2 and text > 0.8) if dark else (ground > 0.9 and text < 0.2)
        picture = driver.find_element("css selector", "#first img")
        current = driver.execute_script("return arguments[0].currentSrc", picture)
        assert (current != picture.get_attribute("src")) is dark
        assert driver.execute_script("return arguments[0].naturalWidth", picture) > 1000
        # Words in a picture stay readable: on a phone it moves to the side within its frame.
        assert picture.rect["width"] >= 850
