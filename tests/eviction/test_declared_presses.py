"""What press files declare is what their presses are; and a list of presses imports neither torch nor the harness."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fairkv_eval.commands.presses import describe
from fairkv_eval.eviction.declared_presses import declared_presses
from fairkv_eval.eviction.press_files import built_in_presses, listed_press


def test_all_presses_are_declared() -> None:
    assert list(declared_presses()) == list(dict.fromkeys(press.name for press in built_in_presses().values()))


@pytest.mark.parametrize("name", declared_presses())
def test_a_declaration_describes_the_press(name: str) -> None:
    press = listed_press(name)
    assert press is not None
    assert {**describe(declared_presses()[name]), "sha256": press.sha256} == describe(press)


@pytest.mark.parametrize("arguments", [[], ["--markdown"], ["adakv", "snap"]])
def test_a_list_imports_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from fairkv_eval.cli import main; status = main(sys.argv[1:]); "
        "sys.exit(status or any(name in sys.modules for name in ('torch', 'lm_eval', 'transformers', 'numpy')))"
    )
    run = subprocess.run([sys.executable, "-c", code, "presses", *arguments], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "snapkv" in run.stdout
