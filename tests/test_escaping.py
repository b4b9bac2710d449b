"""Names and answers of others are shown as text: no formula, no markup, no control of a terminal."""

from __future__ import annotations

import pytest

from fairkv_eval.escaping import for_markdown, for_spreadsheet, for_terminal


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_formula_is_text_in_a_spreadsheet(text: str) -> None:
    assert for_spreadsheet(text) == f"'{text}"


def test_numbers_and_other_text_stay(tmp_path) -> None:
    assert [for_spreadsheet(value) for value in (-1.5, 2, None, True, "tova", "a=b")] == [
        -1.5,
        2,
        None,
        True,
        "tova",
        "a=b",
    ]
    assert for_markdown("snapkv(kernel=5,window=16) ratio=0.3 fair=1 leak_0.3") == (
        "snapkv(kernel=5,window=16) ratio=0.3 fair=1 leak_0.3"
    )
    assert for_terminal("Größe\n\tπ ✓") == "Größe\n\tπ ✓"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[a](http://x)", "\\[a\\](http&#58;//x)"),
        ("![a](b)", "!\\[a\\](b)"),
        ("see www.x.org", "see www&#46;x.org"),
        ("me@x.org", "me&#64;x.org"),
        ("<img src=x onerror=y>", "&lt;img src=x onerror=y&gt;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("**b** _i_ `c` ~s~", "\\*\\*b\\*\\* \\_i\\_ \\`c\\` \\~s\\~"),
        ("a|b\nc", "a\\|b c"),
        ("a\x1b[31mb", "a�\\[31mb"),
    ],
)
def test_markdown_is_text(text: str, shown: str) -> None:
    assert for_markdown(text) == shown


@pytest.mark.parametrize(
    "character", ["\x1b", "\x00", "\x07", "\r", "\x7f", "\x9b", "\u202e", "\u2066", "\u200f", "\ud800"]
)
def test_control_characters_are_visible(character: str) -> None:
    assert for_terminal(f"a{character}b") == "a�b"
