"""The pages of docs/: every link leads somewhere, every page is in the navigation, every formula is of a press."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fairkv_eval.eviction.press_files import built_in_presses

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(importlib.util.find_spec("material") is None, reason="needs pip install mkdocs-material")
def test_the_site_builds_and_every_link_holds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'srcset="images/plain_and_fair_dark.png"' in start and 'href="presses.html"' in start
    assert (tmp_path / "site" / "images" / "plain_and_fair_light.png").is_file()


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    pages |= {f"tasks/{path.parent.name}.md" for path in ROOT.glob("tasks/*/README.md")}
    assert pages <= set(re.findall(r"[\w/]+\.md", nav))


def test_links_between_files_hold_without_the_site() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]:
        for link in re.findall(r"\]\(([^)#\s:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_formula_is_that_of_a_press() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert rows <= {press.name for press in built_in_presses().values()} and {"snapkv", "tova"} <= rows


def test_pictures_are_small() -> None:
    assert all(path.stat().st_size < 150_000 for path in (ROOT / "docs" / "images").glob("*.png"))
