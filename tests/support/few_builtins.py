"""The harness with a few of its own tasks: it needs 20 s to index all 14,000 of them, and a minute to list them."""

from __future__ import annotations

from pathlib import Path

import pytest

# Run in the test's own process, or as the start-up file of another (read after every .pth).
START_UP = """
from lm_eval.tasks import _index
every = _index.TaskIndex._iter_yaml_files
def few(root):
    return every(root / "gsm8k" if root.parts[-2:] == ("lm_eval", "tasks") else root)
_index.TaskIndex._iter_yaml_files = staticmethod(few)
"""


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on an index holds only these in this process."""
    from lm_eval.tasks._index import TaskIndex

    monkeypatch.setattr(TaskIndex, "_iter_yaml_files", TaskIndex._iter_yaml_files)  # what undo puts back
    exec(START_UP, {})


def write(folder: Path) -> Path:
    """Write the start-up file of processes that have this folder on their PYTHONPATH."""
    (folder / "sitecustomize.py").write_text(START_UP)
    return folder
