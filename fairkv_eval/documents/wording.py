"""The texts that sys_multi's prompts are made of: tasks/sys_multi/wording.json."""

from __future__ import annotations

import functools
import json
from typing import Any

from fairkv_eval.errors import DataError
from fairkv_eval.files import resource_dir

WORDING = "wording.json"

Wording = dict[str, Any]


@functools.cache
def wording() -> Wording:
    """The texts that prompts are made of. The dict is shared: do not change it."""
    path = resource_dir("tasks") / "sys_multi" / WORDING
    try:
        texts: Wording = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{WORDING}: cannot be read at {path} ({error})") from error
    return texts


def instructions() -> list[str]:
    """Ids of the instructions, in the table's order."""
    return list(wording()["instructions"])
