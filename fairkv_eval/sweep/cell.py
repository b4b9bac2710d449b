"""A cell of a sweep: one task under one policy, and the identity that everything which could change it goes into."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.utils import handle_non_serializable

from fairkv_eval.eviction.policy import Policy

# Versions that a number can depend on. Not the commit: it changes with every edit of a README, and a sweep that goes
# on after one would start anew. The press's own digest is part of the policy, the task's functions of its config.
_PACKAGES = ("fairkv-eval", "lm-eval", "torch", "transformers")


@dataclass(frozen=True)
class Cell:
    """``identity``: plain values; ``id``: their digest, the same on every machine that would get the same numbers."""

    task: str
    policy: Policy
    identity: Mapping[str, Any]

    @property
    def id(self) -> str:
        return digest(self.identity)[:16]

    @property
    def name(self) -> str:
        """A folder's name: readable, and not another cell's."""
        return f"{self.policy.slug()}-{self.id[:8]}"


def identity(
    task: Task,
    policy: Policy,
    model: Mapping[str, Any],
    settings: Mapping[str, Any],
    requests: str,
) -> dict[str, Any]:
    """What a cell's numbers come from: model, policy, task, ``settings`` (`Sweep.shared`), the requests' digest."""
    return {
        "model": dict(model),
        "policy": policy.describe(),
        "task": task.task_name,
        "task_version": task.VERSION,
        "task_config": without_addresses(task.dump_config()),
        "requests": requests,
        "settings": dict(settings),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def digest(value: Any) -> str:
    """SHA-256 of plain values, whatever the order of their keys."""
    text = json.dumps(value, sort_keys=True, default=handle_non_serializable, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def digest_of_requests(requests: Sequence[Instance]) -> str:
    """Of all documents, and of everything that is asked about them, in order."""
    found = hashlib.sha256()
    docs: dict[int, str] = {}
    for request in requests:
        doc = docs.setdefault(id(request.doc), digest(request.doc))
        found.update(digest([request.request_type, doc, request.doc_id, request.repeats, request.args]).encode())
    return found.hexdigest()


def without_addresses(value: Any) -> Any:
    """A configuration as text and numbers, without the places in memory that Python prints for an object."""
    text = json.dumps(value, sort_keys=True, default=handle_non_serializable)
    return json.loads(re.sub(r" at 0x[0-9a-fA-F]+", "", text))
