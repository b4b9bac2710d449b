"""What the benchmarks share: kvpress's interpreter and worker, peak memory, a table. Imports nothing heavy."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("kvpress_worker.py")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that every benchmark takes."""
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--ratio", type=float, default=0.5, help="fraction of each context's KV pairs that is evicted")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every side (default: all cores)")
    parser.add_argument(
        "--kvpress-python",
        default=os.environ.get("KVPRESS_PYTHON"),
        help="interpreter of kvpress's own environment (default: KVPRESS_PYTHON)",
    )
    parser.add_argument("--json", type=Path, help="write settings, versions and every figure here")


def kvpress_command(python: str | None, arguments: Sequence[str]) -> list[str]:
    """Command of kvpress's worker; ends the program where no interpreter was named."""
    if not python:
        raise SystemExit("name kvpress's interpreter (benchmarks/README.md): --kvpress-python or KVPRESS_PYTHON")
    return [python, str(WORKER), *arguments]


def last_line(command: Sequence[str]) -> dict[str, Any]:
    """Run a command to its end and read the JSON of its last line; its errors go where ours go."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as they need be; the first is a name, the others are figures."""
    lines = [[cell if isinstance(cell, str) else f"{cell:,}" for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def write_json(path: Path | None, settings: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Write settings and figures, without the paths of this machine."""
    if path is None:
        return
    given = {k: v for k, v in vars(settings).items() if k not in ("json", "kvpress_python")}
    path.write_text(json.dumps({"settings": given, **figures}, indent=1) + "\n")
