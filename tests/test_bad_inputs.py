"""Every wrong input of the tables in tests/bad_inputs ends with one line that says what is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from bad_input import Case

TABLES = sorted((Path(__file__).parent / "bad_inputs").glob("*.py"))


def cases(path: Path) -> list[Case]:
    spec = importlib.util.spec_from_file_location(f"bad_inputs_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.CASES)


ALL = [pytest.param(case, id=f"{path.stem}: {case.name}"[:120]) for path in TABLES for case in cases(path)]


@pytest.mark.parametrize("case", ALL)
def test_it_is_refused_with_one_line(case: Case, tmp_path: Path) -> None:
    message, status = case.run(tmp_path)
    assert status == case.status
    assert len(message.strip().splitlines()) == 1, message
    assert all(word in message for word in case.words), message


def test_the_tables_are_long_enough_to_mean_something() -> None:
    assert len(ALL) >= 200
