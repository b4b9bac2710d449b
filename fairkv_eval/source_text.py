"""The source of a function, class or module as text, without what changes no answer."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fairkv_eval.errors import UsageError

_SILENT = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}  # fields that change no answer
_DOCUMENTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)


def source_text(item: FunctionType | type | ModuleType) -> str:
    """The `meaning` of an item's own source. UsageError if it cannot be read."""
    try:
        return _text(_tree(item))
    except (OSError, TypeError, SyntaxError) as error:
        raise UsageError(f"the source of {item.__name__} cannot be read, so it has no digest: {error}") from error


def meaning(source: str) -> str:
    """The syntax tree of Python source as text: without docstrings, annotations, comments and line breaks.

    Written out here, because the text of `ast.dump` differs between versions of Python.
    """
    return _text(ast.parse(textwrap.dedent(source)).body)


def names_outside_the_body(item: FunctionType | type) -> Iterator[str]:
    """The names in a function's or class's decorators, which its code does not contain."""
    for node in _tree(item):
        for decorator in getattr(node, "decorator_list", ()):
            yield from (part.id for part in ast.walk(decorator) if isinstance(part, ast.Name))


def _tree(item: FunctionType | type | ModuleType) -> list[Any]:
    if isinstance(item, ModuleType):
        module = ast.parse(Path(str(item.__file__)).read_text(encoding="utf-8"))
        return module.body[1:] if ast.get_docstring(module) is not None else module.body
    if isinstance(item, type):
        return ast.parse(textwrap.dedent(inspect.getsource(item))).body
    # By its code: of a decorated function `inspect` would give the source of what the decorator wraps.
    if item.__name__ == "<lambda>":
        return _lambdas(item.__code__)
    return ast.parse(textwrap.dedent(inspect.getsource(item.__code__))).body


def _lambdas(code: CodeType) -> list[Any]:
    """The lambda of this code, or all that begin in its line if they cannot be told apart.

    Its lines alone may be a fragment that cannot be parsed, so the whole file is.
    """
    lines, _ = inspect.findsource(code)
    nodes = [node for node in ast.walk(ast.parse("".join(lines))) if isinstance(node, ast.Lambda)]
    nodes = [node for node in nodes if node.lineno == code.co_firstlineno]
    ends = [(end, column) for _, end, _, column in code.co_positions() if end is not None and column is not None]
    exact = [node for node in nodes if (node.body.end_lineno, node.body.end_col_offset) == max(ends, default=None)]
    if not nodes:
        raise OSError("no lambda in its line")
    return exact or nodes


def _text(node: Any) -> str:
    if isinstance(node, list):
        return f"[{' '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, _DOCUMENTED) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    texts = (
        f"{name}={_text(value)}" for name, value in fields.items() if name not in _SILENT and value not in (None, [])
    )
    return f"{type(node).__name__}({' '.join(texts)})"
