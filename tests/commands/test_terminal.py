"""What a command prints of others' names and answers moves no cursor and sets no title."""

from __future__ import annotations

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
