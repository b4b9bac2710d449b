"""The journal: answers on disk as they come, one line per request and cell, so that a killed sweep can resume."""

from __future__ import annotations

import json
import logging
import os
import re
import reprlib
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from fairkv_eval.errors import UsageError

log = logging.getLogger(__name__)

_CELL = re.compile(rb'\{"cell": "([^"\\]*)"')  # how `Journal` begins a line
_SYNCED_EVERY = 1.0  # seconds of answers that a failing machine may lose; a killed process loses none


@dataclass(frozen=True)
class Answer:
    """The answer to one request under one policy.

    text and tokens: of a generation. logprob (nats) and greedy: of a log-likelihood. telemetry: what eviction did.
    context: a digest of the context, which several requests may share. fidelity: to the full cache, once it is
    measured. commit: of the checkout that computed it; None for an installed package.
    """

    telemetry: dict[str, Any]
    context: str
    text: str | None = None
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    greedy: bool = False
    fidelity: dict[str, float] | None = None
    commit: str | None = None


class Slot(NamedTuple):
    """A place for an answer in a cell: the request's index in its task, and its repeat, as the harness may ask for
    several answers to a request."""

    request: int
    repeat: int = 0


@dataclass(frozen=True)
class Key:
    """What an answer belongs to: its cell (`Cell.answers_id`), its request (the id) and its repeat."""

    cell: str
    request: str
    repeat: int = 0


class Journal:
    """An append-only file of JSON lines, used as a context manager. Entering cuts off what follows the last line break,
    a line that a kill interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._synced = 0.0

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if self.path.is_file():
                whole = _whole(self.path.read_bytes())
                if whole < self.path.stat().st_size:
                    os.truncate(self.path, whole)
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise self._unwritable(error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:  # another error is not hidden by one of a full disk
                self.sync()
        finally:
            self._file.close()

    def write(self, key: Key, answer: Answer) -> None:
        """Append one answer. Once this returns, killing the process loses nothing."""
        self._append({**vars(key), **_short(vars(answer))})

    def write_fidelity(self, key: Key, fidelity: dict[str, float]) -> None:
        """Append the fidelity of an answer that is already written."""
        self._append({**vars(key), "fidelity": fidelity})

    def sync(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._unwritable(error) from error
        self._synced = time.monotonic()

    def _append(self, entry: dict[str, Any]) -> None:
        # Half a surrogate pair, which a task's document may hold, comes back as it was.
        line = memoryview(json.dumps(entry, ensure_ascii=False).encode(errors="surrogatepass") + b"\n")
        try:
            while line:  # one call, unless the system takes less at a time
                line = line[self._file.write(line) :]
        except OSError as error:
            raise self._unwritable(error) from error
        if time.monotonic() - self._synced >= _SYNCED_EVERY:
            self.sync()

    def _unwritable(self, error: OSError) -> UsageError:
        return UsageError(
            f"the journal {str(self.path)!r} cannot be written ({error.strerror}); the answers in it are kept, and the "
            "same command goes on from them"
        )


class Answers:
    """The answers in some journals. They are read once, and the lines of a cell are parsed when it is asked for."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._lines: dict[str, list[_Line]] = {}
        self._unreported: list[_Problem] = []
        for path in paths:
            for number, text in enumerate(_complete(path), start=1):
                self._place(_Line(path.name, number, text))

    def of(self, cells: Iterable[str]) -> dict[Key, Answer]:
        """The answers of these cells (by answers_id). A line that cannot be read is logged, once, and left out."""
        answers: dict[Key, Answer] = {}
        measured: dict[Key, dict[str, float]] = {}  # which may stand in another journal, before the answer
        problems, self._unreported = self._unreported, []
        for line in [line for cell in dict.fromkeys(cells) for line in self._lines.get(cell, ())]:
            try:
                _add(answers, measured, line.entry())
            except _UNREADABLE as error:
                problems.append(_Problem(line.file, line.number, error))
        for problem in sorted(problems, key=lambda problem: problem[:2]):
            log.warning("%s, line %d is not an answer (%s): its prompt runs again", *problem[:2], problem.reason)
        for key in measured.keys() & answers.keys():
            answers[key] = replace(answers[key], fidelity=measured[key])
        return answers

    def _place(self, line: _Line) -> None:
        try:
            start = _CELL.match(line.text)
            cell = start[1].decode() if start else _typed(line.entry(), "cell", str)
        except _UNREADABLE as error:
            self._unreported.append(_Problem(line.file, line.number, error))
        else:
            self._lines.setdefault(cell, []).append(line)


def read_answers(paths: Iterable[Path], cells: Iterable[str]) -> dict[Key, Answer]:
    """The answers of these cells (by answers_id). A line that cannot be read is logged and left out."""
    return Answers(paths).of(cells)


_UNREADABLE = (KeyError, TypeError, ValueError, RecursionError)


class _Problem(NamedTuple):
    file: str
    number: int
    error: Exception

    @property
    def reason(self) -> str:
        return f"it has no {self.error}" if isinstance(self.error, KeyError) else str(self.error)


class _Line(NamedTuple):
    file: str
    number: int
    text: bytes

    def entry(self) -> dict[str, Any]:
        entry = json.loads(self.text)
        if not isinstance(entry, dict):
            raise TypeError("it is not an object")
        return entry


def _add(answers: dict[Key, Answer], measured: dict[Key, dict[str, float]], entry: dict[str, Any]) -> None:
    """Add what one line holds: an answer, or the fidelity of one."""
    key = Key(*(_typed(entry, name, kind) for name, kind in (("cell", str), ("request", str), ("repeat", int))))
    if "telemetry" in entry:
        answers[key] = _answer(entry)
    if "telemetry" not in entry or "fidelity" in entry:
        measured[key] = _typed(entry, "fidelity", dict)


_KINDS: Mapping[str, Any] = {"text": str, "logprob": (int, float), "greedy": bool, "fidelity": dict, "commit": str}


def _answer(entry: dict[str, Any]) -> Answer:
    tokens = entry.get("tokens", ())
    if not isinstance(tokens, (list, tuple)) or not set(map(type, tokens)) <= {int}:
        raise TypeError("its tokens are not numbers")
    others = {name: _typed(entry, name, kind) for name, kind in _KINDS.items() if name in entry}
    return Answer(_typed(entry, "telemetry", dict), _typed(entry, "context", str), tokens=tuple(tokens), **others)


def _typed(entry: dict[str, Any], name: str, kind: Any) -> Any:
    value = entry[name]
    if not isinstance(value, kind):
        raise TypeError(f"its {name} is {reprlib.repr(value)}")
    return value


def _complete(path: Path) -> Iterator[bytes]:
    """The lines of a journal that end with a line break."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(f"the journal {str(path)!r} cannot be read ({error.strerror})") from error
    yield from raw[: _whole(raw)].split(b"\n")[:-1]


def _whole(raw: bytes) -> int:
    """The number of bytes up to the last line break, which is included."""
    return raw.rfind(b"\n") + 1


def _short(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out the fields of the other kind of answer."""
    unused = ("logprob", "greedy") if entry["text"] is not None else ("text", "tokens")
    return {k: v for k, v in entry.items() if k not in unused and not (k in ("fidelity", "commit") and v is None)}
