"""JSON lines as rows, read so that nothing in them changes on its way into the harness's data set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fairkv_eval.errors import DataError, UsageError, naming

if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]
_LARGEST = 2**63  # Arrow's integers
_KINDS = {str: "a text", bool: "true or false", int: "a whole number", float: "a fraction", list: "a list"}


def parse(text: str, source: str) -> list[Row]:
    """The rows of a text. DataError names the line that is not one JSON object of values that the harness can store."""
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            with naming(f"{source}, line {number}"):
                rows.append(_row(line))
        except UsageError as error:
            raise DataError(str(error)) from error
    return rows


def check_kinds(rows: Iterable[Row], source: str) -> None:
    """Raise DataError if a field is of different kinds in two rows: one column of a data set has one."""
    first: dict[str, tuple[int, str]] = {}
    for number, row in enumerate(rows, start=1):
        for field, value in row.items():
            if value is None:
                continue
            kind = _KINDS.get(type(value), "an object")
            row_before, kind_before = first.setdefault(field, (number, kind))
            if kind != kind_before:
                raise DataError(
                    f"{source}, row {number}: the field {field!r} is {kind}, and in row {row_before} {kind_before}; "
                    "all rows take the same"
                )


def stored(docs: Sequence[Row]) -> Dataset:
    """The documents as a data set. DataError if it cannot hold them, or gives one back changed."""
    from datasets import Dataset

    names = dict.fromkeys(name for doc in docs for name in doc)  # alone, from_list drops what the first row lacks
    try:
        data = Dataset.from_list([{name: doc.get(name) for name in names} for doc in docs])
    except (ValueError, TypeError, OverflowError) as error:  # pyarrow's are of these types
        raise DataError(f"the rows do not fit into one table: {' '.join(str(error).split())[:200]}") from error
    for number, (doc, row) in enumerate(zip(docs, data, strict=True), start=1):
        for field, value in doc.items():
            if _changed(value, row[field]):
                raise DataError(f"row {number}: the field {field!r} holds values of another kind than other rows")
    return data


def _changed(value: Any, stored: Any) -> bool:
    """Whether a value comes back from the data set as another one. Arrow adds None for keys that a mapping lacks."""
    if isinstance(value, Mapping):
        return not isinstance(stored, Mapping) or any(
            _changed(value.get(key), stored.get(key)) for key in {*value, *stored}
        )
    if isinstance(value, list):
        return not isinstance(stored, list) or len(value) != len(stored) or any(map(_changed, value, stored))
    return type(value) is not type(stored) or value != stored


def _row(line: str) -> Row:
    try:
        row = json.loads(line, parse_constant=_refuse, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise UsageError(f"not JSON ({error}); data takes one JSON object per line") from error
    except RecursionError as error:
        raise UsageError("its values are nested too deeply") from error
    except ValueError as error:  # Python's limit for the digits of a number, or one of ours
        raise UsageError(str(error).partition(";")[0]) from error
    if not isinstance(row, dict):
        raise UsageError(f"{line[:40]!r} is not a JSON object")
    for field, value in row.items():
        with naming(f"field {field!r}"):
            _check(field)
            _check(value)
    return row


def _check(value: Any) -> None:
    """Raise UsageError for a value, or a part of it, that Arrow cannot store."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"its text has half a character (a lone surrogate) at {error.start}") from error
    elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
        raise UsageError(f"the number {str(value)[:20]}… is too large; write it as a text")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UsageError("a number is too large; write it as a text")
    elif isinstance(value, Mapping):
        for entry in (*value, *value.values()):
            _check(entry)
    elif isinstance(value, list):
        for entry in value:
            _check(entry)


def _refuse(constant: str) -> float:
    raise UsageError(f"{constant} is not a JSON value; write null, or a text")


def _once(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise UsageError(f"the key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return row
