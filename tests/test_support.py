"""What tests are made of: no test file imports from another, and few cases in which every two values meet."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from pairwise import pairwise

TESTS = Path(__file__).parent


def imports_of_tests(source: str) -> list[str]:
    """The test files that this source imports from, by the dotted names it gives them."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names += [f"{node.module or ''}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if any(part.startswith(("test_", "conftest")) for part in name.split("."))]


@pytest.mark.parametrize(
    "source", ["import test_press", "from test_press import PRESSES", "from tests.eviction import test_press"]
)
def test_an_import_from_a_test_file_is_found(source: str) -> None:
    assert imports_of_tests(f"def test():\n    {source}\n")
    assert not imports_of_tests("from press_table import PRESSES\nimport fairkv_eval.eviction.press")


def test_no_test_file_imports_from_another() -> None:
    """What two of them need is a helper in tests/support, where it has a name and a docstring."""
    files = sorted(TESTS.rglob("*.py"))
    assert len(files) > 50
    assert not {str(path.relative_to(TESTS)): found for path in files if (found := imports_of_tests(path.read_text()))}


def test_every_helper_says_what_it_holds() -> None:
    helpers = sorted((TESTS / "support").glob("*.py"))
    assert not [path.name for path in helpers if not ast.get_docstring(ast.parse(path.read_text()))]


def test_every_two_values_meet_in_few_cases() -> None:
    parameters = ["ab", "cde", "fghi", "jk"]
    cases = pairwise(*parameters)
    for one, other in itertools.combinations(range(4), 2):
        assert {(case[one], case[other]) for case in cases} == {*itertools.product(parameters[one], parameters[other])}
    assert len(cases) <= 14 < 2 * 3 * 4 * 2
