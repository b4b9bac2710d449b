"""The READMEs agree with the code on rooms, arguments of a policy and sub-commands, and their lines are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fairkv_eval.commands import SUMMARIES
from fairkv_eval.eviction.policy_arguments import NAMES

ROOT = Path(__file__).parents[1]
PATTERNS = ("*.md", "*/README.md", "results/needle.md", "tasks/*/README.md", "docs/*.md")
PAGES = [path for pattern in PATTERNS for path in sorted(ROOT.glob(pattern))]
ARGUMENTS = (ROOT / "docs" / "model_arguments.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TREE = re.findall(r"^    fairkv_eval/ .*?\n\n", CONTRIBUTING, re.MULTILINE | re.DOTALL)[0]


def test_the_tree_names_every_room_and_nothing_else() -> None:
    rooms = {path.name for path in (ROOT / "fairkv_eval").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^      (\w+)/", TREE, re.MULTILINE)) == rooms
    folders = re.findall(r"\b(\w+)/", " ".join(line[:24] for line in TREE.splitlines()))
    assert all((ROOT / name).is_dir() or name in rooms for name in folders) and len(TREE.splitlines()) <= 24


def test_the_arguments_of_a_policy_have_their_help_as_rows() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.*) \|$", ARGUMENTS, re.MULTILINE))
    assert {name: rows.get(name) for name in NAMES} == NAMES


def test_every_sub_command_is_shown() -> None:
    assert set(re.findall(r"^    fairkv (\w+)", README, re.MULTILINE)) == set(SUMMARIES)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("|") and "](http" not in line]
    assert not [line for line in lines if len(line) > 120]
