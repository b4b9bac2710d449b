"""The order of the rooms: each imports only what stands to its right, and no module imports itself in a circle."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "fairkv_eval"

# Each room or top-level file imports what stands anywhere to its right. FOUNDATION is to the right of every room.
LAYERS = """
cli > commands > sweep view > model > harness > engine > eviction > prompts attention storage
commands > leaderboard figures findings > analysis > results > eviction
figures > metrics
declared > metrics prompts
metrics > documents > prompts
sweep > plugin > harness > metrics
scores > eviction
"""
FOUNDATION = (
    "provenance > pretrained > converted_model > command_line bootstrap headlines instruction_classes"
    " sentence_splitter source_digest loading_output model_sources escaping > source_text files strict_yaml > errors"
)

# These import in functions, since they must start quickly: before torch, or before lm_eval (1 s), is needed.
QUICK = {
    "fairkv_eval.cli": "prints help and errors in a tenth of a second",
    "fairkv_eval.commands": "so does each command",
    "fairkv_eval.plugin": "is imported at every interpreter start",
    "fairkv_eval.sweep.config": "refuses a wrong key of a sweep before it imports torch",
    "fairkv_eval.sweep.parsers": "refuses most wrong values before that too",
}


def modules() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name, parsed."""
    names = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(p for p in parts if p != "__init__"): ast.parse(path.read_text()) for path, parts in names.items()}


def imports(tree: ast.AST, names: set[str]) -> set[str]:
    """The modules among these names that the imports below a node name."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= members & names or {node.module}
    return imported & names


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "the package"


def to_the_right() -> dict[str, set[str]]:
    """All that each room may import, by the lines above."""
    rows = [[floor.split() for floor in line.split(">")] for line in [*LAYERS.strip().splitlines(), FOUNDATION]]
    foundation = {name for floor in rows[-1] for name in floor}
    reach = {name: set() if name in foundation else set(foundation) for row in rows for floor in row for name in floor}
    for row in rows:
        for left, right in pairwise(row):
            for name in left:
                reach[name] |= set(right)
    for name in TopologicalSorter(reach).static_order():
        reach[name] |= {further for near in reach[name] for further in reach[near]}
    return reach


def test_each_room_imports_only_what_stands_to_its_right() -> None:
    trees, reach = modules(), to_the_right()
    arrows = {(module, other) for module, tree in trees.items() for other in imports(tree, set(trees))}
    assert {room(module) for module in trees} == {*reach, "the package"}, "a room without a place, or a place without"
    wrong = [
        f"{module} imports {other}"
        for module, other in sorted(arrows)
        if room(module) != room(other) and other != "fairkv_eval" and room(other) not in reach[room(module)]
    ]
    assert not wrong


def test_no_circle_of_modules() -> None:
    trees = modules()
    try:
        TopologicalSorter({module: imports(tree, set(trees)) for module, tree in trees.items()}).prepare()
    except CycleError as error:
        raise AssertionError(" → ".join(error.args[1])) from None


def test_imports_of_the_package_stand_at_the_top_of_a_module() -> None:
    trees = modules()
    hidden = [
        f"{module}.{node.name} imports {', '.join(sorted(imports(node, set(trees))))}"
        for module, tree in trees.items()
        if not any(module == quick or module.startswith(f"{quick}.") for quick in QUICK)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and imports(node, set(trees))
    ]
    assert not hidden
