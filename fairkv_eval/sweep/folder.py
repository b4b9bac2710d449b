"""The output folder of a sweep: where the files of its cells, its journals and its lock are."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lm_eval.utils import sanitize_model_name

from fairkv_eval.errors import UsageError
from fairkv_eval.files import writing
from fairkv_eval.sweep import manifest
from fairkv_eval.sweep.cell import Cell
from fairkv_eval.sweep.journal import Answers, Journal

_PROBE = 1.0  # seconds in which a lock is free again that another shard only looks at


@dataclass(frozen=True)
class SweepFolder:
    """``<model>/<task>/<policy>-<id>/`` holds a finished cell: results_*.json and samples_*.jsonl, with their
    manifest.

    ``.sweep/`` holds the locks, the journals (``journal*.jsonl``) and, below ``unfinished/``, the files of cells that
    are being written.
    """

    path: Path

    @property
    def _inside(self) -> Path:
        return self.path / ".sweep"

    @contextmanager
    def lock(self, shard: str = "") -> Iterator[None]:
        """Keep other sweeps out, or those other than the other shards of one. UsageError if another one is inside, or
        if the path cannot be a folder."""
        with writing(self.path):
            self._inside.mkdir(parents=True, exist_ok=True)
        whole = self._inside / "lock"
        with self._locked(self._inside / f"lock-{shard}" if shard else whole):
            for other in [whole] if shard else sorted(self._inside.glob("lock-*")):
                with self._locked(other, _PROBE):
                    pass  # nobody holds it
            yield

    @contextmanager
    def _locked(self, path: Path, seconds: float = 0) -> Iterator[None]:
        lock = FileLock(path, timeout=seconds)
        try:
            lock.acquire()
        except Timeout as error:
            raise UsageError(
                f"another sweep is running in {self.path}; wait until it ends, or name another output_path"
            ) from error
        except OSError as error:
            raise UsageError(f"output_path={str(self.path)!r} cannot be locked ({error.strerror})") from error
        try:
            yield
        finally:
            lock.release()

    def journal(self, name: str = "journal") -> Journal:
        return Journal(self._inside / f"{name}.jsonl")

    def journals(self) -> list[Path]:
        """All of them: each Ray worker and each shard has one of its own."""
        return sorted(self._inside.glob("journal*.jsonl"))

    def answers(self) -> Answers:
        """The answers in all journals."""
        return Answers(self.journals())

    def cell(self, cell: Cell) -> Path:
        """The folder of a cell's files. It exists once they are complete."""
        return self.path / sanitize_model_name(cell.model) / cell.task / cell.name

    def finished(self, cell: Cell, fidelity: bool) -> bool:
        """Whether a cell's files are there, as they were written, with its fidelity if that is wanted."""
        config = self.config(cell)
        return bool(config) and (not fidelity or bool(config["sweep"].get("fidelity")))

    def config(self, cell: Cell) -> dict[str, Any]:
        """``config.fairkv`` in a cell's result file; {} if its files are not there as they were written."""
        result = manifest.result_of(self.cell(cell))
        return dict(result["config"]["fairkv"]) if result else {}

    def staging(self, cell: Cell) -> Path:
        """An empty place for a cell's files while they are written."""
        shutil.rmtree(self._staging(cell), ignore_errors=True)
        return self._staging(cell)

    def finish(self, cell: Cell, files: Path) -> Path:
        """Move a cell's ``files``, a folder below its staging place, to where they belong; return that folder."""
        folder = self.cell(cell)
        draft, previous = (folder.with_name(f".{folder.name}.{role}") for role in ("draft", "previous"))
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            for old in (draft, previous):
                shutil.rmtree(old, ignore_errors=True)
            shutil.move(files, draft)  # may copy: the model's folder may be a link to another file system
            if folder.exists():  # a cell that was damaged, or only completed, with fidelity
                folder.rename(previous)
            draft.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
        shutil.rmtree(self._staging(cell), ignore_errors=True)
        return folder

    def _staging(self, cell: Cell) -> Path:
        return self._inside / "unfinished" / cell.id
