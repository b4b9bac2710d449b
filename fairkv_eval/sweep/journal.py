"""The journal: answers on disk as they come, one line per request and cell, so that a killed sweep can resume."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

_SYNCED_EVERY = 1.0  # seconds of answers that a failing machine may lose; a killed process loses none


@dataclass(frozen=True)
class Answer:
    """The answer to one request under one policy.

    text and tokens: of a generation. logprob (nats) and greedy: of a log-likelihood. telemetry: what eviction did.
    context: a digest of the context, which several requests may share. fidelity: to the full cache, once it is
    measured.
    """

    telemetry: dict[str, Any]
    context: str
    text: str | None = None
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    greedy: bool = False
    fidelity: dict[str, float] | None = None


class Slot(NamedTuple):
    """A place for an answer in a cell: the request's index in its task, and its repeat, as the harness may ask for
    several answers to a request."""

    request: int
    repeat: int = 0


@dataclass(frozen=True)
class Key:
    """An answer's cell (the id) and slot."""

    cell: str
    request: int
    repeat: int = 0


class Journal:
    """An append-only file of JSON lines, used as a context manager. Entering cuts off what follows the last line break,
    a line that a kill interrupted."""

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
        """Append one answer. Once this returns, killing the process loses nothing."""
        self._append({**asdict(key), **_short(asdict(answer))})

    def write_fidelity(self, key: Key, fidelity: dict[str, float]) -> None:
        """Append the fidelity of an answer that is already written."""
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
    """The answers of these cells (by id) in some journals. A line that cannot be read is logged and left out."""
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
                log.warning("%s, line %d is not an answer (%s): its prompt runs again", path.name, number, error)
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
    """The number of bytes up to the last line break, which is included."""
    return raw.rfind(b"\n") + 1


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    """Leave out the fields of the other kind of answer."""
    unused = ("logprob", "greedy") if entry["text"] is not None else ("text", "tokens")
    return {k: v for k, v in entry.items() if k not in unused and not (k == "fidelity" and v is None)}
