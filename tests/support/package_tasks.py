"""The harness's index of this package's tasks alone."""

from __future__ import annotations

from typing import Any

from fairkv_eval.files import resource_dir


def manager(**metadata: Any) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=str(resource_dir("tasks")), include_defaults=False, metadata=metadata)
