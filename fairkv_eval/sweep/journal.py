"""Answers on disk as they come: a line a request and cell, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

_SYNCED_EVERY = 1.0  # seconds; a killed process loses no line that was written, a machine that fails this many


@dataclass(frozen=True)
class Answer:
    """What came of one request under one policy.

    text and tokens of a generation; logprob (nats) and greedy of a score; telemetry: what eviction did; context: what
    identifies the context, which several requests may share. fidelity: against the full cache, where that was asked.
    """

    telemetry: dict[str, Any]
    context: str
    text: str | None = None
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    greedy: bool = False
    fidelity: dict[str, float] | None = None


@dataclass(frozen=True)
class Key:
    """A cell (its id), a request of its task (its place among them) and how often that was asked before."""

    cell: str
    request: int
    repeat: int = 0


class Journal:
    """An append-only file of JSON lines. What follows the last line break was torn off by a kill, and is cut away.

    Use as a context manager; nothing is written before.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._synced = 0.0

    def __enter__(self) -> Journal:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            whole = _whole(self.path.read_bytes())
            if whole < self.path.stat().st_size:
                os.truncate(self.path, whole)
        self._file = self.path.open("ab", buffering=0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sync()
        self._file.close()

    def write(self, key: Key, answer: Answer) -> None:
        """Append one answer; it is on its way to the disk when this returns."""
        self._append({**asdict(key), **_short(asdict(answer))})

    def write_fidelity(self, key: Key, fidelity: dict[str, float]) -> None:
        """Append what an answer written before lacks."""
        self._append({**asdict(key), "fidelity": fidelity})

    def sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _append(self, entry: dict[str, Any]) -> None:
        line = memoryview(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        while line:  # one call, unless the system takes less at a time
            line = line[self._file.write(line) :]
        if time.monotonic() - self._synced >= _SYNCED_EVERY:
            self.sync()


def read_answers(paths: Iterable[Path], cells: Iterable[str]) -> dict[Key, Answer]:
    """The answers of these cells in some journals. A line that cannot be read is named and left out."""
    wanted = set(cells)
    answers: dict[Key, Answer] = {}
    for path in paths:
        for number, entry in _entries(path):
            try:
                key = Key(entry.pop("cell"), entry.pop("request"), entry.pop("repeat"))
                if key.cell not in wanted:
                    continue
                if "telemetry" in entry:
                    entry["tokens"] = tuple(entry.get("tokens", ()))
                    answers[key] = Answer(**entry)
                elif key in answers:
                    answers[key] = replace(answers[key], fidelity=entry["fidelity"])
            except (KeyError, TypeError) as error:
                log.warning("%s, line %d is no answer (%s): its prompt runs again", path.name, number, error)
    return answers


def _entries(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    raw = path.read_bytes()
    for number, line in enumerate(raw[: _whole(raw)].split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            entry = None
        if isinstance(entry, dict):
            yield number, entry
        else:
            log.warning("%s, line %d cannot be read: its prompt runs again", path.name, number)


def _whole(raw: bytes) -> int:
    """Bytes up to and with the last line break."""
    return raw.rfind(b"\n") + 1


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    """Without what a score or a generation has no use for."""
    unused = ("logprob", "greedy") if entry["text"] is not None else ("text", "tokens")
    return {k: v for k, v in entry.items() if k not in unused and not (k == "fidelity" and v is None)}
