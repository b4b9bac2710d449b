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
    that would get the same numbers. ``request_ids``: a digest of each request of the task.

    ``answers_id``: a digest of what an answer depends on besides its request. How many documents there are, and how
    they are scored, is not part of it: a sweep that changes that takes the answers that it has.
    """

    model: str
    task: str
    policy: Policy
    identity: Mapping[str, Any]
    request_ids: Sequence[str]

    @cached_property
    def id(self) -> str:
        return digest(self.identity)[:16]

    @cached_property
    def answers_id(self) -> str:
        parts = {name: self.identity[name] for name in ("model", "task", "policy")}
        return digest({**parts, "seed": self.identity["settings"]["seed"]})[:16]

    @property
    def name(self) -> str:
        """The name of the cell's folder: readable and unique."""
        return f"{self.policy.slug()}-{self.id[:8]}"

    def key(self, slot: Slot) -> Key:
        """The key of one of its answers."""
        return Key(self.answers_id, self.request_ids[slot.request][:16], slot.repeat)


def cells_of(sweep: Sweep, model: LoadedModel, task: Task, requests: Sequence[Instance]) -> tuple[Cell, ...]:
    """The cells of one task on one model, in the order of the sweep's policies. What numbers depend on is in their
    identities: model, policy, task, requests, settings and versions."""
    request_ids = ids_of(requests)
    shared = {
        "model": model.identity(),
        "task": task.task_name,
        "task_version": task.VERSION,
        "task_config": task_identity(task),
        "requests": hashlib.sha256("".join(request_ids).encode()).hexdigest(),
        "settings": sweep.identity(),
    }
    return tuple(
        Cell(model.name, task.task_name, policy, {**shared, "policy": policy.describe()}, request_ids)
        for policy in sweep.policies
    )


def digest(value: Any) -> str:
    """SHA-256 of plain values; the order of their keys does not matter."""
    text = json.dumps(value, sort_keys=True, default=handle_non_serializable, ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def ids_of(requests: Sequence[Instance]) -> tuple[str, ...]:
    """The SHA-256 of each request, its document included."""
    ids: list[str] = []
    docs: dict[int, str] = {}
    for request in requests:
        doc = docs.setdefault(id(request.doc), digest(request.doc))
        entry = [request.request_type, doc, request.doc_id, request.repeats, request.args]
        text = request.args[0]
        if isinstance(text, ChatText):  # its turns decide the context and the segments
            entry += [text.chat.context_end, text.chat.turns]
        ids.append(digest(entry))
    return tuple(ids)
