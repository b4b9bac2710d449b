"""A cell of a sweep: one task under one policy on one model, with an identity made of all that could change it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.utils import handle_non_serializable

from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.chat import ChatText
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.journal import Key, Slot
from fairkv_eval.sweep.loaded_model import LoadedModel
from fairkv_eval.sweep.task_identity import task_identity


@dataclass(frozen=True)
class Cell:
    """``model``, ``task``: their names. ``identity``: plain values. ``id``: their digest, the same on every machine
    that would get the same numbers."""

    model: str
    task: str
    policy: Policy
    identity: Mapping[str, Any]

    @cached_property
    def id(self) -> str:
        return digest(self.identity)[:16]

    @property
    def name(self) -> str:
        """The name of the cell's folder: readable and unique."""
        return f"{self.policy.slug()}-{self.id[:8]}"

    def key(self, slot: Slot) -> Key:
        """The key of one of its answers."""
        return Key(self.id, *slot)


def cells_of(sweep: Sweep, model: LoadedModel, task: Task, requests: Sequence[Instance]) -> tuple[Cell, ...]:
    """The cells of one task on one model, in the order of the sweep's policies. What numbers depend on is in their
    identities: model, policy, task, requests, settings and versions."""
    shared = {
        "model": model.identity(),
        "task": task.task_name,
        "task_version": task.VERSION,
        "task_config": task_identity(task),
        "requests": digest_of_requests(requests),
        "settings": sweep.identity(),
    }
    return tuple(
        Cell(model.name, task.task_name, policy, {**shared, "policy": policy.describe()}) for policy in sweep.policies
    )


def digest(value: Any) -> str:
    """SHA-256 of plain values; the order of their keys does not matter."""
    text = json.dumps(value, sort_keys=True, default=handle_non_serializable, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def digest_of_requests(requests: Sequence[Instance]) -> str:
    """SHA-256 of all requests in order, their documents included."""
    total = hashlib.sha256()
    docs: dict[int, str] = {}
    for request in requests:
        doc = docs.setdefault(id(request.doc), digest(request.doc))
        entry = [request.request_type, doc, request.doc_id, request.repeats, request.args]
        text = request.args[0]
        if isinstance(text, ChatText):  # its turns decide the context and the segments
            entry += [text.chat.context_end, text.chat.turns]
        total.update(digest(entry).encode())
    return total.hexdigest()
