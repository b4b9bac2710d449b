"""What a command prints of others' names and answers moves no cursor and sets no title."""

from __future__ import annotations

import re

import pytest

from fairkv_eval.commands.terminal import console, plain_table, show

NASTY = "a\x1b]0;owned\x07b\x9b2Jc\u202ed\re"


@pytest.mark.parametrize("terminal", [True, False])
def test_no_control_character_reaches_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    from rich.text import Text

    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    table = plain_table()
    table.add_column(NASTY)
    table.add_row(NASTY)
    show(console(), [NASTY, Text(NASTY, style="bold red"), table])
    printed = capsys.readouterr().out
    assert printed.count("d") >= 4
    assert not set(printed) & {"\x07", "\x9b", "\u202e", "\r"} and "\x1b]" not in printed
    assert ("\x1b[1;31m" in printed) == terminal  # styles of its own stay


@pytest.mark.parametrize("columns", [24, 40, 200])
def test_a_table_that_does_not_fit_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    from rich.padding import Padding

    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    table = plain_table()
    table.add_column("press and setting", no_wrap=True)
    table.add_column("documents needed", justify="right")
    table.add_column("interval", no_wrap=True)
    table.add_row("snapkv ratio=0.5", "12,345", "[+0.001048, +0.021]")
    table.add_row(Padding("tova", (0, 0, 0, 2)), "7", "")
    show(console(), [Padding(table, (0, 0, 0, 1))])
    printed = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert max(map(len, printed.splitlines())) <= columns
    assert "…" not in printed
    words = {"documents", "needed", "snapkv", "ratio=0.5", "12,345", "[+0.001048,", "+0.021]", "tova", "7"}
    assert words <= set(printed.replace(";", "").split())
    assert ("press and setting" in printed) == (columns == 200)
