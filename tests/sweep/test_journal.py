"""The journal: what was written is read back, wherever a kill cut the file off; unreadable lines are logged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.sweep.journal import Answer, Journal, Key, read_answers

TELEMETRY = {"keep_rate": 0.1 + 0.2, "segments": {"a": 1 / 3}, "kv_bytes_full": 12, "folded_system": False}
ENTRIES = [
    (Key("one", 0), Answer(TELEMETRY, "c0", text='Ünïcode ✓\n"quoted"\u2028', tokens=(1, 2, 3))),
    (Key("two", 0, 1), Answer(TELEMETRY, "c0", text="", tokens=(2,))),
    (Key("one", 1), Answer({}, "c1", logprob=-1e-17 / 3, greedy=True)),
    (Key("three", 1), Answer({}, "c1", logprob=float("-inf"))),
]


def write(path: Path, entries) -> None:
    with Journal(path) as journal:
        for key, answer in entries:
            journal.write(key, answer)


def read(path: Path, *cells: str) -> dict[Key, Answer]:
    return read_answers([path], cells or ("one", "two", "three"))


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal.jsonl"
    write(path, ENTRIES[:2])
    write(path, ENTRIES[2:])
    assert read(path) == dict(ENTRIES)
    assert read(path, "two") == dict(ENTRIES[1:2])
    with Journal(path) as journal:
        journal.write_fidelity(Key("one", 0), {"fidelity_kl": 0.25})
        journal.write_fidelity(Key("one", 9), {"fidelity_kl": 0.5})  # of an answer that is not there
    assert read(path)[Key("one", 0)].fidelity == {"fidelity_kl": 0.25} and len(read(path)) == len(ENTRIES)


@given(st.text(), st.floats(allow_nan=False), st.lists(st.integers(0, 10**6)))
def test_any_text_and_figure(tmp_path_factory: pytest.TempPathFactory, text: str, figure: float, tokens: list) -> None:
    path = tmp_path_factory.mktemp("any") / "journal.jsonl"
    entries = [
        (Key("one", 0), Answer({"x": figure}, "", text=text, tokens=tuple(tokens))),
        (Key("one", 1), Answer({}, "", logprob=figure)),
    ]
    write(path, entries)
    assert read(path) == dict(entries)


def test_cut_off_at_any_byte_it_resumes(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, ENTRIES)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        done = whole[:cut].count(b"\n")
        assert read(path) == dict(ENTRIES[:done])
        write(path, ENTRIES[done:])
        assert path.read_bytes() == whole


def test_a_line_that_cannot_be_read_is_logged_and_its_prompt_runs_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, ENTRIES)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:20] + b"\0\0\xff\n"
    lines[2] = b'{"cell": "one", "telemetry": {}}\n'
    path.write_bytes(b"".join([*lines, b"[]\n"]))
    with caplog.at_level(logging.WARNING):
        assert read(path) == dict([ENTRIES[0], ENTRIES[3]])
    assert [f"line {n}" in r.getMessage() for n, r in zip((2, 3, 5), caplog.records, strict=True)] == [True] * 3
