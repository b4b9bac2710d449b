"""Files and functions stay small: what outgrows these numbers is asking to be two."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "fairkv_eval"
MODULE, FUNCTION, MEDIAN = 300, 50, 8  # lines


def functions(source: str) -> dict[str, int]:
    """Lines of each function, methods and inner functions too: from ``def`` to the end, the docstring apart."""
    lengths = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            lengths[f"{node.lineno} {node.name}"] = node.end_lineno - node.lineno + 1 - docstring
    return lengths


def sources() -> dict[str, str]:
    return {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def test_lengths_are_counted_without_docstrings() -> None:
    source = 'def f():\n    """One.\n\n    Two.\n    """\n    def g():\n        return 1\n    return g\n'
    assert functions(source) == {"1 f": 4, "6 g": 2}


def test_modules_are_short() -> None:
    assert not {name: lines for name, text in sources().items() if (lines := len(text.splitlines())) > MODULE}


def test_functions_are_short() -> None:
    lengths = {f"{name}:{where}": lines for name, text in sources().items() for where, lines in functions(text).items()}
    assert not {where: lines for where, lines in lengths.items() if lines > FUNCTION}
    assert statistics.median(lengths.values()) <= MEDIAN
