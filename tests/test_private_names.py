"""A private name is used in its own module alone: by the package, the benchmarks and the tests."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDERS = ("fairkv_eval", "benchmarks", "tests")

# Private names of other packages that have no public one.
THEIRS = {
    "_replace": "a method of every named tuple",
    "_asdict": "a method of every named tuple",
    "_commit_hash": "transformers: the commit that a model was loaded from",
    "_attn_implementation": "transformers: the attention that a model runs with",
    "_encode_pair": "lm_eval: the tokens of a context and a continuation",
    "_instances": "lm_eval: a task's requests, replaced by those of an earlier run",
    "_model_generate": "lm_eval: what `hf` generates, counted by a benchmark",
    "_create_model": "lm_eval: loads weights, which a test forbids",
    "_api": "lm_eval: its client of the hub, replaced by a test",
    "_iter_yaml_files": "lm_eval: the files of its index, cut down by a test",
    "_params": "nltk: the parameters of a sentence model",
    "_running_attn_sum": "kvpress: the attention that CAMPress has collected, which a reference sets",
    "_index_put_impl_": "torch: an operator",
    "_fused_sdp_choice": "torch: an operator",
    "_flash_attention_forward": "torch: the operator beneath `varlen_attn`, which older torches have alone",
    "_reorder_linear_weight": "torch: an operator",
    "_linear_pointwise": "torch: an operator",
    "_make_wrapper_subclass": "torch: how a tensor subclass is made",
    "_schema": "torch: an operator's signature",
    "_parameters": "torch: a module's own tensors",
    "_forward_pre_hooks": "torch: what runs before a module",
    "_buffers": "torch: a module's own tensors",
}


def is_private(name: str) -> bool:
    return re.fullmatch(r"_(?!_)\w+", name) is not None


def uses(source: str) -> Iterator[tuple[int, str]]:
    """Lines and private names that belong to another object than self, or that a string names for a test to replace."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if is_private(alias.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.lineno, node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "getattr", "delattr")):
            texts = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
            names = [str(text).rpartition(".")[2] for text in texts]
            yield from ((node.lineno, name) for name in names if is_private(name))


def definitions(tree: ast.AST) -> Iterator[str]:
    """Names of functions, classes, variables and fields."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_private_name_of_another_module(folder: str) -> None:
    files = sorted((CHECKOUT / folder).rglob("*.py"))
    assert files
    assert not [
        f"{path.relative_to(CHECKOUT)}:{line} uses {name}"
        for path in files
        for line, name in uses(path.read_text(encoding="utf-8"))
        if name not in THEIRS
    ]


def test_names_of_other_packages_are_none_of_ours() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (CHECKOUT / "fairkv_eval").rglob("*.py")]
    ours = {name for tree in trees for name in definitions(tree)}
    assert not ours & THEIRS.keys()


@pytest.mark.parametrize(
    "source",
    [
        "from a.b import _c",
        "module._c()",
        "lm.prompter._c.d",
        'monkeypatch.setattr(module, "_c", 1)',
        'monkeypatch.setattr("a.b._c", 1)',
        'getattr(module, "_c")',
    ],
)
def test_a_use_is_found(source: str) -> None:
    assert list(uses(source)) == [(1, "_c")]
    assert not list(uses("self._c = cls._d\nmodule.__name__\ngetattr(model, 'config')"))
