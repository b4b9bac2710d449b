"""YAML 1.2 with every key once, and what the harness's YAML 1.1 makes of the same text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.files import resource_dir
from fairkv_eval.strict_yaml import load, loads, misread

# text: what YAML 1.2 reads, what version 1.1 reads
DIFFERENT = {
    "4:12": ("4:12", 252),
    "16:48:16": ("16:48:16", 60496),
    "1:30": ("1:30", 90),
    "on": ("on", True),
    "off": ("off", False),
    "Yes": ("Yes", True),
    "no": ("no", False),
    "010": (10, 8),
    "0o17": (15, "0o17"),
    "1_000": ("1_000", 1000),
    "1e-5": (1e-5, "1e-5"),
    "2e3": (2000.0, "2e3"),
}
SAME = {"12": 12, "-3": -3, "0x1F": 31, "0.5": 0.5, ".5": 0.5, "true": True, "False": False, "null": None, "~": None}
SAME |= {"": None, "-.inf": -math.inf, "a b": "a b", "'no'": "no", '"1:30"': "1:30", "0:0.9:0.1": "0:0.9:0.1"}


@pytest.mark.parametrize("text", DIFFERENT)
def test_what_the_harness_reads_otherwise_is_reported(text: str, tmp_path: Path) -> None:
    ours, theirs = DIFFERENT[text]
    assert loads(text, "x") == ours and type(loads(text, "x")) is type(ours)
    assert yaml.safe_load(text) == theirs and type(yaml.safe_load(text)) is type(theirs)
    path = tmp_path / "x.yaml"
    path.write_text(f"a: [1, {{b: {text}}}]\nc: '{text}'\n")
    (finding,) = misread(path)
    assert finding.startswith("line 1: the harness") and f"reads {text} as {theirs!r};" in finding


@pytest.mark.parametrize("text", SAME)
def test_what_both_read_alike_is_not(text: str, tmp_path: Path) -> None:
    assert loads(text, "x") == SAME[text] == yaml.safe_load(text)
    path = tmp_path / "x.yaml"
    path.write_text(f"a: {text}\n")
    assert not list(misread(path))


@given(st.integers() | st.floats(allow_nan=False))
def test_numbers_are_read_back(number: float) -> None:
    text = repr(number).replace("inf", ".inf")
    assert loads(text, "x") == number and type(loads(text, "x")) is type(number)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is given twice"),
        ("a:\n  - {b: 1, b: 1}\n", "line 2: the key 'b' is given twice"),
        ("a: [\n", "not YAML"),
        ("- a\n", "it takes a mapping of keys, not list"),
        ("? [1, 2]\n: 3\n", "line 1: found unhashable key"),
        ("a: !!python/object:os.system x\n", "line 1: could not determine a constructor for the tag"),
        (f"a: {'9' * 400}\n", "line 1: a number of 400 digits is too large"),
        (f"a: {'[' * 3000}\n", "x.yaml"),
        ("a: \ud800\n", "not UTF-8"),
    ],
)
def test_an_error_is_one_line_with_the_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError) as error:
        load(path)
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\n", encoding="utf-8-sig")
    assert load(path) == {"a": 1}


def test_tags_are_made_by_their_functions() -> None:
    assert loads("a: !function x.y\nb: [!function z]", "x", {"!function": str.upper}) == {"a": "X.Y", "b": ["Z"]}
    with pytest.raises(UsageError, match="constructor for the tag '!function'"):
        loads("a: !function x.y", "x")


def test_anchors_are_shared_and_merged_keys_are_no_finding(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {b: yes}\nc: *a\nd: {<<: *a, e: 1}\n")
    assert [finding[:7] for finding in misread(path)] == ["line 1:"]


@pytest.mark.parametrize("folder", ["tasks", "presses"])
def test_the_package_s_files_mean_one_thing(folder: str) -> None:
    assert not [finding for path in resource_dir(folder).rglob("*.yaml") for finding in misread(path)]
