"""A press's digest: it changes with what decides an answer, and survives housekeeping."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from press_table import press

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.press_files import load_press

GOOD = "press: mine\nscore: !function fairkv_eval.scores.knorm\n"


def test_an_edited_rule_has_another_digest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("press: mine\nscore: !function rules_of_mine.rule\n")
    code = tmp_path / "rules_of_mine.py"
    code.write_text("def rule(layer, span):\n    return -layer.k.norm(dim=-1)\n")
    before = load_press(str(tmp_path / "mine.yaml"))
    code.write_text("def rule(layer, span):\n    return layer.k.norm(dim=-1)\n")
    assert load_press(str(tmp_path / "mine.yaml")).sha256 != before.sha256


@pytest.mark.parametrize("key", ["score", "budget", "replay", "decode"])
def test_a_digest_covers_every_function(key: str, tmp_path: Path) -> None:
    lines = {
        "score": "score: !function fairkv_eval.scores.knorm\n",
        key: f"{key}: !function functions_of_mine_{key}.rule\n",
    }
    (tmp_path / "mine.yaml").write_text("press: mine\n" + "".join(lines.values()))
    code = tmp_path / f"functions_of_mine_{key}.py"
    code.write_text("def rule(one, two=None):\n    return one\n")
    before = press(str(tmp_path / "mine.yaml"))
    assert press(str(tmp_path / "mine.yaml")) == before
    code.write_text("def rule(one, two=None):\n    return two\n")
    assert press(str(tmp_path / "mine.yaml")) != before


def test_a_digest_of_a_wrapper_covers_what_it_wraps(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    before = press("adakv", str(path))
    path.write_text(GOOD.replace("knorm", "keydiff"))
    assert press("adakv", str(path)) != before and press("adakv", str(path)).sha256 != before.sha256


class TestADigestSurvivesHousekeeping:
    """A press of its own file and module, before and after an edit of either."""

    RULE = """
from helpers_of_mine import weight
FACTOR = 2
def _helper(layer):
    return layer.k.norm(dim=-1) * FACTOR * weight()
def rule(layer, span):
    return -_helper(layer)
def another(layer, span):
    return 0
"""
    HELPERS = "def weight():\n    return 1\n"

    def digest(self, folder: Path, rule: str = RULE, helpers: str = HELPERS, yaml: str = "") -> str:
        sys.modules.pop("helpers_of_mine", None)
        (folder / "mine.yaml").write_text(f"press: mine\nscore: !function kept_by_me.rule\n{yaml}")
        (folder / "kept_by_me.py").write_text(rule)
        (folder / "helpers_of_mine.py").write_text(helpers)
        return press(str(folder / "mine.yaml")).sha256

    @pytest.mark.parametrize(
        "before, after",
        [
            ("def another(layer, span):\n    return 0", "def more(layer, span):\n    return 1"),
            ("def rule(layer, span):\n", 'def rule(layer, span):\n    """What it does."""\n    # and why\n\n'),
            (
                "def rule(layer, span):\n    return",
                "def rule(\n    layer: object, span: object,\n) -> object:\n    return",
            ),
            ("\nFACTOR", "\n\n\nimport math\nFACTOR"),
        ],
    )
    def test_what_changes_nothing(
        self, before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        assert before in self.RULE
        assert self.digest(tmp_path) == self.digest(tmp_path, self.RULE.replace(before, after))

    def test_what_only_describes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        described = "summary: in words\npaper: none\nobserves: keys\naliases: [m]\n"
        assert self.digest(tmp_path) == self.digest(tmp_path, yaml=described)

    @pytest.mark.parametrize("before, after", [("-_helper", "_helper"), ("* FACTOR", "+ FACTOR"), ("R = 2", "R = 3")])
    def test_what_changes_an_answer(
        self, before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        assert before in self.RULE
        assert self.digest(tmp_path) != self.digest(tmp_path, self.RULE.replace(before, after))

    def test_a_helper_in_another_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        assert self.digest(tmp_path) != self.digest(tmp_path, helpers="def weight():\n    return 5\n")

    def test_a_helper_module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(tmp_path)
        rule = self.RULE.replace("from helpers_of_mine import weight", "import helpers_of_mine")
        rule = rule.replace("weight()", "helpers_of_mine.weight()")
        assert self.digest(tmp_path, rule) != self.digest(tmp_path, rule, helpers="def weight():\n    return 5\n")


def test_a_partial_is_its_function_and_its_arguments(tmp_path: Path) -> None:
    path, code = tmp_path / "mine.yaml", tmp_path / "partial_of_mine.py"
    path.write_text("press: mine\nscore: !function partial_of_mine.rule\n")
    text = "from functools import partial\ndef scaled(layer, span, by):\n    return by\nrule = partial(scaled, by=2)\n"
    code.write_text(text)
    before = press(str(path))
    assert press(str(path)) == before
    code.write_text(text.replace("by=2", "by=3"))
    assert press(str(path)) != before


def test_a_function_without_source_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("press: mine\nscore: !function sourceless_of_mine.rule\n")
    (tmp_path / "sourceless_of_mine.py").write_text("rule = eval('lambda layer, span: 0')\n")
    with pytest.raises(UsageError, match=r"mine\.yaml.*source of <lambda> cannot be read"):
        press(str(tmp_path / "mine.yaml"))
