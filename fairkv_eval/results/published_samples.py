"""The published samples of one task, of any number of results: one compressed columnar file (Parquet).

A row is a line of the samples. The column ``result`` numbers the results; the others are the line's own keys. A value
that is missing in a line is null. Numbers keep every digit; a whole number beside fractions becomes a fraction. Values
that no column can hold with others are JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.errors import UsageError
from fairkv_eval.files import sha256_of, write_whole
from fairkv_eval.results import samples

if TYPE_CHECKING:
    import pyarrow

_RESULT = "result"
_JSON = {b"fairkv": b"json"}  # metadata of a column whose values are JSON text

Line = Mapping[str, Any]


def write_table(path: Path, lines: Mapping[int, Sequence[Line]]) -> Path:
    """Write the lines of results, by their numbers."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = [line for of_result in lines.values() for line in of_result]
    numbers = [number for number, of_result in lines.items() for _ in of_result]
    columns = [(pa.field(_RESULT, pa.int32()), pa.array(numbers, pa.int32()))]
    for name in dict.fromkeys(key for line in rows for key in line):
        columns.append(_column(name, [line.get(name) for line in rows]))
    table = pa.table([array for _, array in columns], schema=pa.schema([field for field, _ in columns]))
    return write_whole(path, lambda draft: parquet.write_table(table, draft, compression="zstd", compression_level=19))


def _column(name: str, values: Sequence[Any]) -> tuple[pyarrow.Field, pyarrow.Array]:
    import pyarrow as pa

    kind = _kind(values)
    if kind is None:
        texts = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
        return pa.field(name, pa.string(), metadata=_JSON), pa.array(texts, pa.string())
    return pa.field(name, kind), pa.array(values, kind)


def _kind(values: Sequence[Any]) -> pyarrow.DataType | None:
    """The type of a column that gives these values back; None if there is none."""
    import pyarrow as pa

    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {list}:
        inside = [entry for value in values if value is not None for entry in value]
        kind = None if None in inside else _kind(inside)
        return None if kind is None else pa.list_(kind)
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {str}:
        return pa.string()
    if kinds == {int}:
        return pa.int64() if all(-(2**63) <= value < 2**63 for value in values if value is not None) else None
    if kinds <= {int, float} and all(map(_is_fraction, values)):
        return pa.float64()
    return None


def _is_fraction(value: float | None) -> bool:
    """Whether a float64 surely holds the value exactly."""
    return value is None or isinstance(value, float) or abs(value) <= 2**53


@dataclass(frozen=True)
class PublishedTable:
    """The file of one task. sha256: what it must have."""

    path: Path
    sha256: str

    @cached_property
    def table(self) -> pyarrow.Table:
        """The whole table, read once. Raise UsageError if the file is missing, damaged or another."""
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            if sha256_of(self.path) != self.sha256:
                raise UsageError(f"{self.path.name}: another file than the one that was published with these results")
            return parquet.read_table(self.path)
        except (OSError, pa.ArrowException) as error:
            raise UsageError(f"{self.path.name}: not published samples, or truncated ({error})"[:300]) from error

    def lines(self, number: int) -> list[dict[str, Any]]:
        """The lines of one result, without keys that are missing."""
        import pyarrow.compute as compute

        table = self.table.filter(compute.equal(self.table[_RESULT], number)).drop_columns([_RESULT])
        columns = {field.name: _values(field, table[field.name].to_pylist()) for field in table.schema}
        rows = zip(*columns.values(), strict=True)
        return [{k: v for k, v in zip(columns, row, strict=True) if v is not None} for row in rows]


def _values(field: pyarrow.Field, values: list[Any]) -> list[Any]:
    if field.metadata != _JSON:
        return values
    return [None if value is None else json.loads(value) for value in values]


@dataclass(frozen=True)
class PublishedSamples:
    """The samples of one result in the file of its task. name: see `SampleSource`."""

    published: PublishedTable
    number: int
    name: str
    task_hash: str | None = None

    def lines(self) -> list[dict[str, Any]]:
        """See `SampleSource`."""
        return samples.checked(self.published.lines(self.number), self.name, self.task_hash)
