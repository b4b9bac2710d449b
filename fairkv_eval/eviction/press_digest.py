"""The digest of a press: of its YAML, of the source of the functions it names, and of everything of theirs they use.

Docstrings, annotations, comments and line breaks do not count, nor does the place of a function in a file or of a file
in the package. So an edit of a rule changes the presses that use it, and housekeeping changes none.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fairkv_eval.errors import UsageError

_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_SILENT = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}  # fields that change no answer


def digest(config: Mapping[str, Any], functions: Iterable[Callable[..., Any]]) -> str:
    """SHA-256 of a press's YAML, without what only describes the press, and of its functions' sources."""
    decides = {key: value for key, value in config.items() if key not in ("summary", "paper", "observes", "aliases")}
    parameters = decides.get("parameters") or {}
    decides["parameters"] = {
        name: {key: value for key, value in entry.items() if key != "help"} for name, entry in parameters.items()
    }
    plain = json.dumps(decides, sort_keys=True, default=_name)
    parts = [plain, *sources(functions)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def sources(functions: Iterable[Callable[..., Any]]) -> list[str]:
    """The sources of functions and of what they use, one entry per function, class, constant or helper module.

    What they use: the value of every global name in their code, if it comes from the same package or from code that is
    not installed. Versions of installed packages are recorded elsewhere. UsageError if a source cannot be read.
    """
    collected: dict[Any, str] = {}
    waiting: list[Any] = list(functions)
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, partial):
            collected[id(item)] = repr((item.args, item.keywords))
            item = item.func
        item = inspect.unwrap(item)
        if id(item) in collected:
            continue
        collected[id(item)] = _source(item)
        package = _package(item)
        for name, value in _used(item):
            if isinstance(value, type) and issubclass(value, BaseException):
                continue  # the words of an error change no answer
            if isinstance(value, (FunctionType, type, partial)):
                if _package(value) == package or not _installed(value):
                    waiting.append(value)
            elif isinstance(value, ModuleType):
                if not _installed(value):
                    collected[id(value)] = Path(str(value.__file__)).read_text(encoding="utf-8")
            elif isinstance(value, (bool, int, float, str, tuple, type(None))):
                constant = f"{name} = {value!r}"
                collected[constant] = constant
    return sorted(collected.values())


def _name(function: Any) -> str:
    return _name(function.func) if isinstance(function, partial) else getattr(function, "__name__", str(type(function)))


def _source(item: Any) -> str:
    if isinstance(item, ModuleType):
        return Path(str(item.__file__)).read_text(encoding="utf-8")
    try:
        # Of a callable object its class decides.
        return meaning(inspect.getsource(item if isinstance(item, (type, FunctionType)) else type(item)))
    except (OSError, TypeError) as error:
        raise UsageError(f"the source of {_name(item)} cannot be read, so the press has no digest: {error}") from error


def meaning(source: str) -> str:
    """The syntax tree of Python source as text: without docstrings, annotations, comments and line breaks.

    Written out here, because the text of `ast.dump` differs between versions of Python.
    """
    return _text(ast.parse(textwrap.dedent(source)).body)


def _text(node: Any) -> str:
    if isinstance(node, list):
        return f"[{' '.join(map(_text, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    texts = (
        f"{name}={_text(value)}" for name, value in fields.items() if name not in _SILENT and value not in (None, [])
    )
    return f"{type(node).__name__}({' '.join(texts)})"


def _used(item: Any) -> Iterator[tuple[str, Any]]:
    """Global names in the code of a function, or of a class's methods, with their values."""
    functions = [item] if isinstance(item, FunctionType) else _methods(item)
    for function in functions:
        scope = {**function.__globals__, **dict(inspect.getclosurevars(function).nonlocals)}
        for name in _names(function.__code__):
            if name in scope:
                yield name, scope[name]


def _methods(item: Any) -> list[FunctionType]:
    kind = item if isinstance(item, type) else type(item)
    members = [getattr(value, "fget", None) or getattr(value, "__func__", value) for value in vars(kind).values()]
    return [member for member in members if isinstance(member, FunctionType) and member.__module__ == kind.__module__]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _package(item: Any) -> str:
    return str(getattr(item, "__module__", "")).partition(".")[0]


def _installed(item: Any) -> bool:
    """Whether something is part of Python or of an installed package."""
    name = item.__name__ if isinstance(item, ModuleType) else getattr(item, "__module__", "")
    module = sys.modules.get(str(name))
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return True
    parents = set(Path(file).resolve().parents)
    return bool(parents & _INSTALLED)
