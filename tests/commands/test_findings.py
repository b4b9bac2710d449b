"""``fairkv findings`` on a terminal, in a pipe and in a file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import synthetic_sweep

from fairkv_eval.cli import main


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    synthetic_sweep.write(folder, n=24, presses=("snapkv", "tova"))
    return folder


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_are_as_wide_as_the_terminal_and_words_stay_whole(
    sweep: Path, columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["findings", str(sweep)]) == 0
    lines = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    assert any("prompt_level_strict_acc " in line and "[" in line for line in lines)


def test_a_press_is_printed_below_the_mean_if_wanted(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["findings", str(sweep)])
    short = capsys.readouterr().out
    main(["findings", str(sweep), "--by_press"])
    long = capsys.readouterr().out
    assert "\n    snapkv " in long and "\n    snapkv " not in short


@pytest.mark.parametrize("kind", ["text", "markdown", "json"])
def test_a_file_holds_what_would_be_printed(
    sweep: Path, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["findings", str(sweep), "--format", kind])
    printed = capsys.readouterr().out
    path = tmp_path / "report"
    assert main(["findings", str(sweep), "--format", kind, "--output_path", str(path)]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert path.read_text(encoding="utf-8") == printed
    if kind == "json":
        assert json.loads(printed)[0]["model"]


def test_presses_and_ratios_are_chosen_by_lists(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["findings", str(sweep), "--presses", "tova,snapkv", "--ratios", "0.3,0.6"]) == 0
    assert "30 results of other presses or ratios" in capsys.readouterr().out
    assert main(["findings", str(sweep), "--ratios", "half"]) == 2
    assert "'half' is not a list of numbers; it takes 0.5,0.7" in capsys.readouterr().err
