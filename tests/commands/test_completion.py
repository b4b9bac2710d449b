"""The scripts by which shells complete the command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fairkv_eval.cli import main
from fairkv_eval.commands import SUMMARIES

COMPLETED = """
source "$1"
function=$(complete -p fairkv | sed -n 's/.*-F \\([^ ]*\\).*/\\1/p')
COMP_WORDS=(fairkv "${@:2}"); COMP_CWORD=$(($# - 1))
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert main(["completion", "bash"]) == 0
    path = tmp_path / "fairkv"
    path.write_text(capsys.readouterr().out)
    return path


def completed(script: Path, *words: str) -> list[str]:
    command = ["bash", "-c", COMPLETED, "bash", str(script), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=script.parent)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_options_and_files(script: Path) -> None:
    (script.parent / "mine.yaml").touch()
    assert set(completed(script, "")) >= set(SUMMARIES)
    assert completed(script, "sweep", "--rat") == ["--ratios"]
    assert "mine.yaml" in completed(script, "sweep", "min")


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells_get_a_script_too(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert all(name in capsys.readouterr().out for name in ["fairkv"])


def test_an_unknown_shell_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "fish"]) == 2
    assert "'fish'" in capsys.readouterr().err
