"""The figures of a device check as tables, one per kind; for the standard library alone.

python3 summary.py [FOLDER]    of the folder with figures.jsonl; exit status 1 if a step failed
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def read(folder: Path) -> list[dict[str, Any]]:
    """Every line of figures; the last may be cut off."""
    lines = (folder / "figures.jsonl").read_text().splitlines()
    figures = []
    for line in lines:
        try:
            figures.append(json.loads(line))
        except ValueError:
            print(f"not read: {line[:80]}")
    return figures


def tables(figures: list[dict[str, Any]]) -> str:
    """A table per step and figure, whose columns are its values' names; then what failed."""
    kinds: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for figure in figures:
        if "error" not in figure and not figure["figure"].endswith(": done"):
            kinds.setdefault((figure.pop("step"), figure.pop("figure")), []).append(figure)
    parts = [f"{step}: {name}\n{_table(rows)}" for (step, name), rows in kinds.items()]
    failed = [f"FAILED {f['step']}: {f['figure']}: {f['error']}" for f in figures if "error" in f]
    return "\n\n".join([*parts, "\n".join(failed) or "nothing failed"])


def failures(figures: list[dict[str, Any]]) -> bool:
    return any("error" in figure for figure in figures)


def _table(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return "–" if value is None else str(value)
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    records = read(Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OUT") or "build/device/out"))
    bad = failures(records)
    print(tables(records))
    raise SystemExit(int(bad))
