"""The journal: what was written is read back, wherever a kill cut the file off; unreadable lines are logged."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.sweep.journal import Answer, Answers, Journal, Key, read_answers

TELEMETRY = {"keep_rate": 0.1 + 0.2, "segments": {"a": 1 / 3}, "kv_bytes_full": 12, "folded_system": False}
ENTRIES = [
    (Key("one", "r0"), Answer(TELEMETRY, "c0", text='Ünïcode ✓\n"quoted"\u2028', tokens=(1, 2, 3))),
    (Key("two", "r0", 1), Answer(TELEMETRY, "c0", text="", tokens=(2,))),
    (Key("one", "r1"), Answer({}, "c1", logprob=-1e-17 / 3, greedy=True, commit="0" * 40)),
    (Key("three", "r1"), Answer({}, "c1", logprob=float("-inf"))),
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
        journal.write_fidelity(Key("one", "r0"), {"fidelity_kl": 0.25})
        journal.write_fidelity(Key("one", "r9"), {"fidelity_kl": 0.5})  # of an answer that is not there
    assert read(path)[Key("one", "r0")].fidelity == {"fidelity_kl": 0.25} and len(read(path)) == len(ENTRIES)


def test_fidelity_may_stand_in_a_journal_before_the_answers(tmp_path: Path) -> None:
    first, second = tmp_path / "journal-1-of-2.jsonl", tmp_path / "journal.jsonl"
    write(second, ENTRIES)
    with Journal(first) as journal:
        journal.write_fidelity(Key("one", "r0"), {"fidelity_kl": 0.25})
    for order in ([first, second], [second, first]):
        answers = read_answers(order, ["one", "two", "three"])
        assert answers.pop(Key("one", "r0")).fidelity == {"fidelity_kl": 0.25}
        assert answers == dict(ENTRIES[1:])


@given(st.text(), st.floats(allow_nan=False), st.lists(st.integers(0, 10**6)))
def test_any_text_and_figure(tmp_path_factory: pytest.TempPathFactory, text: str, figure: float, tokens: list) -> None:
    path = tmp_path_factory.mktemp("any") / "journal.jsonl"
    entries = [
        (Key("one", "r0"), Answer({"x": figure}, "", text=text, tokens=tuple(tokens))),
        (Key("one", "r1"), Answer({}, "", logprob=figure)),
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


@pytest.mark.parametrize(
    "line",
    [
        b'{"cell": "one", "request": ' + b"[" * 100_000 + b"\n",
        b'{"cell": "one", "request": "r0", "repeat": 0, "telemetry": {}, "context": "c", "tokens": ["a"]}\n',
        b'{"cell": "one", "request": "r0", "repeat": 0, "telemetry": [], "context": "c"}\n',
        b'{"cell": "one", "request": [], "repeat": 0, "telemetry": {}, "context": "c"}\n',
        b'{"cell": "one", "request": "r0", "repeat": 0, "telemetry": {}, "context": "c", "logprob": "much"}\n',
        b'{"cell": ["one"], "request": "r0", "repeat": 0}\n',
        b'{"cell": "one", "request": 1' + b"0" * 5000 + b', "repeat": 0}\n',
        b'{"cell": "\xff", "request": "r0", "repeat": 0}\n',
        b"\x80\x81 not text\n",
    ],
    ids=["depth", "tokens", "telemetry", "request", "logprob", "cell", "digits", "bytes", "binary"],
)
def test_a_line_of_other_types_is_left_out_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    path = tmp_path / "journal.jsonl"
    write(path, ENTRIES)
    with path.open("ab") as file:
        file.write(line)
    answers = Answers([path])
    with caplog.at_level(logging.WARNING):
        assert answers.of(["one", "two", "three"]) == dict(ENTRIES)
        answers.of(["two"])
    assert ["line 5" in record.getMessage() for record in caplog.records] == [True]
    assert len(caplog.messages[0]) < 300


def test_half_a_surrogate_pair_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "journal.jsonl", [(Key("one", "r0"), Answer({}, "c", text="a\ud800b"))])
    assert read(tmp_path / "journal.jsonl")[Key("one", "r0")].text == "a\ud800b"


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    (tmp_path / "journal.jsonl").symlink_to(full)
    with (
        pytest.raises(UsageError, match=r"journal\.jsonl' cannot be written \(No space left on device\); .* goes on"),
        Journal(tmp_path / "journal.jsonl") as journal,
    ):
        journal.write(*ENTRIES[0])


def test_a_folder_in_the_journal_s_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        Answers([tmp_path])
    with pytest.raises(UsageError, match="cannot be written"), Journal(tmp_path):
        pass


def test_a_journal_of_100_000_lines_is_read_in_seconds(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    telemetry = {f"keep_rate_{number}": number / 7 for number in range(20)}
    write(path, [(Key("0" * 16, "1" * 16), Answer(telemetry, "c", text="word " * 60, tokens=tuple(range(60))))])
    line = path.read_bytes()
    cells = [f"{number:016x}" for number in range(1000)]
    path.write_bytes(
        b"".join(
            line.replace(b"0" * 16, cell.encode(), 1).replace(b"1" * 16, b"%016d" % request)
            for request in range(100)
            for cell in cells
        )
    )
    before = time.process_time()
    answers = Answers([path])
    assert sum(len(answers.of([cell])) for cell in cells) == 100_000
    assert time.process_time() - before < 10  # 2 s on an idle core
