"""The tasks that can be named: of this package, of the user's folders, and the harness's own."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from fairkv_eval.errors import DataError, UsageError, unknown
from fairkv_eval.files import resource_dir
from fairkv_eval.harness.task_files import read_folder


class TaskLibrary:
    """Tasks and groups by name, and what is wrong with their files.

    names: tasks and groups to look at; by default all of the user's folders or, without folders, all of this package.
    The harness's own are indexed only if one of them is named: there are thousands. metadata: as for ``lm_eval``.
    UsageError for a folder or a name that does not exist.
    """

    def __init__(
        self, names: Sequence[str] = (), include_path: Sequence[Path] = (), metadata: Mapping[str, Any] | None = None
    ) -> None:
        for folder in include_path:
            if not folder.is_dir():
                raise UsageError(f"--include_path {str(folder)!r} is not a folder")
        package = resource_dir("tasks")
        contents = {folder: read_folder(folder) for folder in (package, *include_path)}
        default = [contents[folder] for folder in (include_path or [package])]
        self.files = [file for files, _ in contents.values() for file in files]
        self.findings = [finding for _, findings in (contents.values() if names else default) for finding in findings]
        if names:
            self.findings = [finding for finding in self.findings if finding.where in names]
        from_files = {file.name for file in self.files}
        self.manager = _task_manager([*contents], not set(names) <= from_files, dict(metadata or {}))
        for name in names:
            if name not in self.manager.task_index:
                unreadable = [str(f) for _, findings in contents.values() for f in findings if f.unreadable]
                hint = " ".join(["", "Files that cannot be read:", *unreadable]) if unreadable else ""
                raise UsageError(f"{unknown('task', name, from_files)}{hint}")
        self.groups = {file.name for file in self.files if file.is_group}
        every = names or [file.name for files, _ in default for file in files]
        self.names = sorted(dict.fromkeys(every), key=lambda name: name in self.groups)

    def load(self, name: str) -> Mapping[str, Any]:
        """The task of this name, or all tasks of the group, each by its name."""
        with quiet():
            return load_named(self.manager, name)


def load_named(manager: Any, name: str) -> dict[str, Any]:
    """The task of this name, or all tasks of the group, each by its name. UsageError for one that cannot be loaded."""
    try:
        return dict(manager.load([name])["tasks"])
    except (UsageError, DataError):
        raise
    # The code that a task's files name may raise anything, and a module may exit as it is imported.
    except (Exception, SystemExit) as error:
        raise UsageError(f"task {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the harness's own progress bars and remarks out of a report."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _task_manager(folders: Sequence[Path], include_defaults: bool, metadata: dict[str, Any]) -> Any:
    from lm_eval.tasks import TaskManager

    paths: list[str | Path] = [str(folder) for folder in folders]
    with quiet():
        return TaskManager(include_path=paths, include_defaults=include_defaults, metadata=metadata)
