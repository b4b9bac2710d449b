"""YAML as people read it: version 1.2, with every key once.

PyYAML reads version 1.1, in which ``4:12`` is 252 (base 60), ``010`` is 8, ``no`` is false and ``1e-5`` is a text, and
of a key that is given twice it takes the last one. The harness reads task files that way, so `misread` reports what it
would read differently.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import yaml

from fairkv_eval.errors import UsageError

_TAG = "tag:yaml.org,2002:"
# The core schema of YAML 1.2.2, section 10.3.2, with the characters that such a scalar begins with.
_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
_APART = (f"{_TAG}merge", f"{_TAG}value")  # `<<` and `=`, which are no values
_DIGITS = 300  # more are no number that a setting takes


class Loader(yaml.SafeLoader):
    """Reads YAML 1.2 and refuses a key that is given twice."""


Loader.yaml_implicit_resolvers = {}  # none of version 1.1

for _name, _pattern, _first in _CORE:
    Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def _integer(loader: Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > _DIGITS:
        raise yaml.constructor.ConstructorError(
            None, None, f"a number of {len(text)} digits is too large", node.start_mark
        )
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _float(loader: Loader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(re.sub(r"\.(inf|nan)\Z", r"\1", text))


def _mapping(loader: Loader, node: yaml.MappingNode) -> Iterator[dict[Any, Any]]:
    mapping: dict[Any, Any] = {}
    yield mapping
    for key, place in repeated(node):
        raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", place)
    mapping.update(loader.construct_mapping(node))


Loader.add_constructor(_TAG + "int", _integer)
Loader.add_constructor(_TAG + "float", _float)
Loader.add_constructor(_TAG + "map", _mapping)


def load(
    path: Path, tags: dict[str, Callable[[str], Any]] | None = None, texts: Collection[str] = ()
) -> dict[Any, Any]:
    """The mapping in a file. ``tags``: what makes a value of a scalar with such a tag, as ``!function``.

    ``texts``: keys whose plain values are texts whatever they look like, as the number of a paper.
    UsageError in one line, with the line of the file, if it cannot be read, is not YAML or not a mapping.
    """
    value = loads(_text(path), str(path), tags, texts)
    if not isinstance(value, dict):
        raise UsageError(f"{path}: it takes a mapping of keys, not {type(value).__name__}")
    return value


def loads(
    text: str, source: str, tags: dict[str, Callable[[str], Any]] | None = None, texts: Collection[str] = ()
) -> Any:
    """The value of a YAML text. ``source`` names it in errors; ``tags`` and ``texts`` as for `load`."""
    loader: Any = type("TaggedLoader", (Loader,), {})
    for tag, make in (tags or {}).items():
        loader.add_constructor(tag, lambda this, node, make=make: make(this.construct_scalar(node)))
    try:
        document = loader(text)  # a SafeLoader
        root = document.get_single_node()
        _keep_as_texts(root, texts)
        return None if root is None else document.construct_document(root)
    except yaml.YAMLError as error:
        raise UsageError(f"{source}{_what(error)}") from error
    except RecursionError as error:
        raise UsageError(f"{source}: its values are nested too deeply") from error


def misread(path: Path) -> Iterator[str]:
    """What PyYAML, and so the harness, reads otherwise than it says: one line each, with the line of the file.

    These are keys given twice, and plain scalars that are something else in YAML 1.2.
    """
    try:
        root = yaml.compose(_text(path), yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UsageError(f"{path}{_what(error)}") from error
    now, before = Loader(""), yaml.SafeLoader("")
    for node in _nodes(root, set()):
        if isinstance(node, yaml.MappingNode):
            for key, place in repeated(node):
                yield f"line {place.line + 1}: the key {key!r} is given twice; the harness takes the last one"
        elif isinstance(node, yaml.ScalarNode) and node.style is None and node.tag == _tag(before, node) not in _APART:
            value, read = (loader.construct_object(_plain(node, _tag(loader, node))) for loader in (now, before))
            if repr(value) != repr(read):
                what = f"the harness, which reads YAML 1.1, reads {node.value} as {read!r}; write that, or quote it"
                yield f"line {node.start_mark.line + 1}: {what}"


def repeated(node: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    """The keys of a mapping that stand in it more than once, each with the place where it comes again."""
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                yield key.value, key.start_mark
            seen.add((key.tag, key.value))


def _keep_as_texts(root: yaml.Node | None, keys: Collection[str]) -> None:
    for key, value in root.value if keys and isinstance(root, yaml.MappingNode) else ():
        if key.value in keys and isinstance(value, yaml.ScalarNode):
            value.tag = _TAG + "str"


def _tag(loader: Any, node: yaml.ScalarNode) -> str:
    """The tag that a loader gives to a plain scalar by its text."""
    return str(loader.resolve(yaml.ScalarNode, node.value, (True, False)))


def _plain(node: yaml.ScalarNode, tag: str) -> yaml.ScalarNode:
    return yaml.ScalarNode(tag, node.value, node.start_mark)


def _nodes(node: yaml.Node | None, seen: set[int]) -> Iterator[yaml.Node]:
    """A node and all below it, each once although anchors share them."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    yield node
    if isinstance(node, yaml.CollectionNode):
        for entry in node.value:
            for child in entry if isinstance(entry, tuple) else (entry,):
                yield from _nodes(child, seen)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not YAML (not UTF-8 text: {error.reason} at byte {error.start})") from error


def _what(error: yaml.YAMLError) -> str:
    """An error of PyYAML in one line."""
    place = getattr(error, "problem_mark", None)
    line = f", line {place.line + 1}" if place else ""
    what = " ".join(str(getattr(error, "problem", None) or error).split())
    return f"{line}: {what}" if isinstance(error, yaml.constructor.ConstructorError) else f"{line}: not YAML ({what})"
