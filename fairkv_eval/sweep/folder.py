"""The output folder of a sweep: where the files of its cells, its journals and its lock are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lm_eval.utils import sanitize_model_name

from fairkv_eval.errors import UsageError
from fairkv_eval.sweep.cell import Cell
from fairkv_eval.sweep.journal import Answer, Journal, Key, read_answers


@dataclass(frozen=True)
class SweepFolder:
    """``<model>/<task>/<policy>-<id>/`` holds a finished cell: results_*.json and samples_*.jsonl.

    ``.sweep/`` holds the lock, the journals (``journal*.jsonl``) and, below ``unfinished/``, the files of cells that
    are being written.
    """

    path: Path

    @property
    def _inside(self) -> Path:
        return self.path / ".sweep"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other sweeps out. UsageError if another one is inside, or if the path cannot be a folder."""
        try:
            self._inside.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"output_path={str(self.path)!r} is not a writable folder ({error.strerror})") from error
        try:
            with FileLock(self._inside / "lock", timeout=0):
                yield
        except Timeout as error:
            raise UsageError(
                f"another sweep is running in {self.path}; wait until it ends, or name another output_path"
            ) from error

    def journal(self, name: str = "journal") -> Journal:
        return Journal(self._inside / f"{name}.jsonl")

    def journals(self) -> list[Path]:
        """All of them: each Ray worker has one of its own."""
        return sorted(self._inside.glob("journal*.jsonl"))

    def answers(self, cells: Iterable[Cell]) -> dict[Key, Answer]:
        """The journalled answers of these cells."""
        return read_answers(self.journals(), [cell.id for cell in cells])

    def cell(self, cell: Cell) -> Path:
        """The folder of a cell's files. It exists once they are complete."""
        return self.path / sanitize_model_name(cell.model) / cell.task / cell.name

    def finished(self, cell: Cell, fidelity: bool) -> bool:
        """Whether a cell's files are written, with its fidelity if that is wanted."""
        if not fidelity:
            return any(self.cell(cell).glob("results_*.json"))
        config = self.config(cell)
        return bool(config and config["sweep"].get("fidelity"))

    def config(self, cell: Cell) -> dict[str, Any]:
        """``config.fairkv`` in a cell's result file; {} if there is none."""
        files = sorted(self.cell(cell).glob("results_*.json"))
        return dict(json.loads(files[-1].read_text(encoding="utf-8"))["config"]["fairkv"]) if files else {}

    def staging(self, cell: Cell) -> Path:
        """An empty place for a cell's files while they are written."""
        shutil.rmtree(self._staging(cell), ignore_errors=True)
        return self._staging(cell)

    def finish(self, cell: Cell, files: Path) -> Path:
        """Move a cell's ``files``, a folder below its staging place, to where they belong; return that folder."""
        folder = self.cell(cell)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():  # a cell that was only completed, with fidelity
            folder.rename(self._staging(cell) / "previous")
        files.rename(folder)
        shutil.rmtree(self._staging(cell))
        return folder

    def _staging(self, cell: Cell) -> Path:
        return self._inside / "unfinished" / cell.id
