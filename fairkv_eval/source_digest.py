"""The digest of functions: of their sources, and of everything that they use.

Docstrings, annotations, comments and line breaks do not count, nor does the place of a function in a file or of a file
in the package. So an edit of a rule or a metric changes what uses it, and housekeeping changes nothing.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cache, partial
from pathlib import Path, PurePath
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from fairkv_eval.files import sha256_of
from fairkv_eval.source_text import names_outside_the_body, source_text

_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_RECORDED = {"lm_eval", "torch", "transformers", "numpy"}  # packages whose version stands for their code
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), range, slice, re.Pattern, Decimal, Fraction)
_DYNAMIC = {"getattr", "vars", "__dict__"}  # code with these may use any attribute of a module
_DEPTH = 8  # of containers in containers

Named = FunctionType | type | ModuleType


def digest(functions: Iterable[Callable[..., Any]], *plain: str) -> str:
    """SHA-256 of functions' `sources`, after these texts."""
    return hashlib.sha256("\0".join([*plain, *sources(functions)]).encode(errors="surrogatepass")).hexdigest()


def sources(functions: Iterable[Callable[..., Any]]) -> list[str]:
    """The sources of functions and of what they use, one entry per function and class, with the values it uses.

    What they use: the value of every global and enclosing name in their code, of their defaults, decorators and
    attributes; and so on for each function, class, and module attribute among these that comes from the same package
    or is not installed. A file that a constant names counts with its content. Versions of installed packages are
    recorded elsewhere. UsageError if a source cannot be read.
    """
    start = list(functions)
    package = {_package(item) for value in start for item in _items(value)}
    entries: dict[int, str] = {}
    waiting = [item for value in start for item in _items(value)]
    held = [_shallow(value, package) for value in start]
    while waiting:
        item = waiting.pop()
        if id(item) in entries or not (_is_followed(item, package) or item in start):
            continue
        used = {name: value for name, value in _used(item) if not _is_error(value)}
        values = (f"{name} = {_shallow(value, package)}" for name, value in sorted(used.items()))
        entries[id(item)] = "\n".join([source_text(item), *values])
        waiting += (part for value in used.values() for part in _items(value))
    return [*held, *sorted(set(entries.values()))]


def _items(value: Any, depth: int = _DEPTH) -> Iterator[Named]:
    """The functions, classes and modules in a value."""
    if isinstance(value, (FunctionType, type)):
        yield value
    elif not isinstance(value, (ModuleType, *_PLAIN)) and depth:
        for part in _parts(value):
            yield from _items(part, depth - 1)


def _parts(value: Any) -> Iterator[Any]:
    """What a value that is no function, class or constant consists of."""
    if isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, (staticmethod, classmethod)) or hasattr(value, "__wrapped__"):
        yield value.__wrapped__
    elif isinstance(value, property):
        yield from (function for function in (value.fget, value.fset) if function)
    elif isinstance(value, Mapping):
        yield from (part for pair in value.items() for part in pair)
    elif isinstance(value, (Sequence, AbstractSet)):
        yield from value
    elif not _is_installed(type(value)):
        yield from (type(value), *getattr(value, "__dict__", {}).values())
    elif type(value).__name__ == "cached_property":
        yield value.func


def _shallow(value: Any, package: AbstractSet[str], depth: int = _DEPTH) -> str:
    """A value as text: of functions, classes and modules that are followed the digest of their source, else names."""
    if isinstance(value, (str, PurePath)) and _is_file(value):
        return f"file {sha256_of(Path(value))}"
    if isinstance(value, (*_PLAIN, Enum)):
        return repr(value)
    if isinstance(value, PurePath):
        return f"path {value.name}"
    if isinstance(value, (FunctionType, type)):
        if _is_followed(value, package):
            return hashlib.sha256(source_text(value).encode()).hexdigest()
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, ModuleType):
        return f"module {value.__name__.rpartition('/')[2]}"
    if isinstance(value, logging.Logger) or not depth:
        return type(value).__name__
    return _composed(value, package, depth - 1)


def _composed(value: Any, package: AbstractSet[str], depth: int) -> str:
    def texts(parts: Iterable[Any]) -> list[str]:
        return [_shallow(part, package, depth) for part in parts]

    kind = type(value).__name__
    if isinstance(value, AbstractSet):
        return f"{kind}{sorted(texts(value))}"
    if isinstance(value, partial):
        return f"partial{texts([value.func, value.args, value.keywords])}"
    if not hasattr(value, "__array__"):
        names = list(getattr(value, "__dict__", ())) if not _is_installed(type(value)) else []
        name = getattr(value, "__qualname__", "") if inspect.isbuiltin(value) else ""
        return f"{kind}{name}{names}{texts(_parts(value))}"
    array = value.detach().cpu() if hasattr(value, "detach") else value
    return f"{kind}{tuple(array.shape)}{value.dtype}{hashlib.sha256(repr(array.tolist()).encode()).hexdigest()}"


def _used(item: Named) -> Iterator[tuple[str, Any]]:
    """What a function or class uses besides its own source, by name."""
    if isinstance(item, FunctionType):
        yield from _used_by_function(item)
        return
    if isinstance(item, type):
        yield from ((f"base {i}", base) for i, base in enumerate(item.__mro__[1:]) if base is not object)
        scope = vars(sys.modules.get(item.__module__, object))
        yield from ((name, scope[name]) for name in names_outside_the_body(item) if name in scope)
        for name, value in vars(item).items():
            if not name.startswith("__") or name in ("__init__", "__call__", "__post_init__", "__new__"):
                function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
                if isinstance(function, FunctionType) and function.__module__ == item.__module__:
                    yield from ((f"{name}: {used}", found) for used, found in _used_by_function(function))
                elif not _is_slot(value):
                    yield name, value


def _used_by_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    closure = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    scope = {**function.__globals__, **{name: cell.cell_contents for name, cell in closure if _is_filled(cell)}}
    names = {*_names(function.__code__), *(names_outside_the_body(function) if _has_source(function) else ())}
    for name in sorted(names & scope.keys()):
        yield from _named(name, scope[name], names)
    yield from ((f"default {i}", value) for i, value in enumerate(function.__defaults__ or ()))
    yield from ((f"default {name}", value) for name, value in (function.__kwdefaults__ or {}).items())
    yield from ((f"attribute {name}", value) for name, value in vars(function).items())


def _named(name: str, value: Any, names: AbstractSet[str], depth: int = _DEPTH) -> Iterator[tuple[str, Any]]:
    """A name's value. Of a module that is not installed the attributes that the code names, or all."""
    yield name, value
    if not isinstance(value, ModuleType) or _is_installed(value) or not depth:
        return
    members = {key: entry for key, entry in vars(value).items() if not key.startswith("__")}
    chosen = members.keys() if names & _DYNAMIC else members.keys() & names
    for key in sorted(chosen):
        yield from _named(f"{name}.{key}", members[key], names, depth - 1)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    yield from code.co_freevars
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _is_filled(cell: Any) -> bool:
    """Whether an enclosing name is bound already."""
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _has_source(function: FunctionType) -> bool:
    """Whether a function was written, and not made by `dataclass` or the like."""
    return not function.__code__.co_filename.startswith("<")


def _is_slot(value: Any) -> bool:
    return inspect.isdatadescriptor(value) and not isinstance(value, property)


def _is_error(value: Any) -> bool:
    """Whether a value is an error's class, whose words change no answer."""
    return isinstance(value, type) and issubclass(value, BaseException)


def _is_file(value: str | PurePath) -> bool:
    try:
        return Path(value).is_absolute() and Path(value).is_file()
    except (OSError, ValueError):
        return False


def _is_followed(item: Any, package: AbstractSet[str]) -> bool:
    return _package(item) not in _RECORDED and (_package(item) in package or not _is_installed(item))


def _package(item: Any) -> str:
    return str(getattr(item, "__module__", None) or getattr(item, "__name__", "")).partition(".")[0]


def _is_installed(item: Any) -> bool:
    """Whether something is part of Python or of an installed package."""
    name = item.__name__ if isinstance(item, ModuleType) else getattr(item, "__module__", "")
    module = item if isinstance(item, ModuleType) else sys.modules.get(str(name))
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return True
    path = Path(file).resolve()
    return bool(set(path.parents) & _INSTALLED) or _installed_aside(path)


def _installed_aside(file: Path) -> bool:
    """Whether a file belongs to a package in a folder of its own, as ``pip install --target`` makes it."""
    folders = {Path(entry).resolve() for entry in sys.path} & set(file.parents)
    return any(file.relative_to(folder).parts[0] in _recorded(folder) for folder in folders)


@cache
def _recorded(folder: Path) -> frozenset[str]:
    """What lies in a folder by the records that pip leaves beside it; it leaves none beside a package's sources."""
    records = [record.read_text(encoding="utf-8") for record in folder.glob("*.dist-info/RECORD")]
    return frozenset(re.split("[/,]", line, maxsplit=1)[0] for record in records for line in record.splitlines())
