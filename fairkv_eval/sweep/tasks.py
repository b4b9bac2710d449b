"""The tasks of a sweep, loaded by the harness, and their requests, built by it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from fairkv_eval import plugin
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.harness.task_library import load_named
from fairkv_eval.model import FairKV
from fairkv_eval.pretrained import TOKENIZER_SOURCE
from fairkv_eval.sweep.config import Sweep


def load_tasks(sweep: Sweep, arguments: Mapping[str, Any]) -> dict[str, Task]:
    """Tasks by name; a group or tag stands for its tasks. UsageError for one that is unknown or cannot be swept.

    arguments: those of the model that runs them. As under `lm_eval`, a task that is sized by a tokenizer finds among
    its metadata which one that is, and a task that draws its documents draws them from the seeds.
    """
    plugin.install()
    random.seed(sweep.seed[0])
    numpy.random.seed(sweep.seed[1])
    source = {name: arguments[name] for name in TOKENIZER_SOURCE if name in arguments}
    metadata = sweep.metadata or {}
    manager = TaskManager(include_path=list(sweep.include_path) or None, metadata={**source, **metadata})
    for name in sweep.tasks:
        if name not in manager.task_index:
            raise unknown("task", name, manager.all_tasks, listed_by="lm_eval ls tasks")
    tasks = {key: task for name in sweep.tasks for key, task in load_named(manager, name).items()}
    for name, task in tasks.items():
        _check_name(name)
        for key in {*source} - {*metadata}:  # the cell's model has them
            (task.config.metadata or {}).pop(key, None)
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            raise UsageError(
                f"task {name} scores rolling windows, whose contexts of one token leave nothing to compress: every "
                "cell would be the same. Leave it out"
            )
    return tasks


def _check_name(name: str) -> None:
    """Raise UsageError for a task whose name cannot be that of a folder."""
    if name.startswith(".") or any(character in name for character in "/\\\0"):
        raise UsageError(
            f"task {name!r} cannot be swept: a folder and files are named after it, so a slash, a backslash, a null "
            "character and a dot in front are not allowed. Rename it in its YAML"
        )


def build_requests(sweep: Sweep, model: FairKV, task: Task) -> tuple[Instance, ...]:
    """A task's requests in the harness's order, as an evaluation of ``model`` would send them."""
    with suppress(RequestsBuilt):
        simple_evaluate(
            TemplateModel(model),
            tasks=[task],
            num_fewshot=sweep.num_fewshot,
            limit=sweep.limit,
            gen_kwargs=dict(sweep.gen_kwargs) if sweep.gen_kwargs else None,
            system_instruction=sweep.system_instruction,
            apply_chat_template=sweep.apply_chat_template,
            fewshot_as_multiturn=sweep.fewshot_as_multiturn,
            confirm_run_unsafe_code=sweep.confirm_run_unsafe_code,
            random_seed=sweep.seed[0],
            numpy_random_seed=sweep.seed[1],
            torch_random_seed=sweep.seed[2],
            fewshot_random_seed=sweep.seed[3],
            task_manager=TaskManager(include_defaults=False),
        )
    return tuple(task.instances)


class RequestsBuilt(Exception):
    """Raised once the harness has built a task's requests and asks for their answers."""


class TemplateModel(LM):
    """Renders chats as the model ``like`` does, and stops an evaluation with RequestsBuilt before anything is answered.

    The requests are then `task.instances`, as any model would get them.
    """

    def __init__(self, like: FairKV) -> None:
        super().__init__()
        self._like = like

    @property
    def tokenizer_name(self) -> str:
        return str(self._like.tokenizer_name)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return str(self._like.chat_template(chat_template))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._like.apply_chat_template(chat_history, add_generation_prompt)  # which carries its turns

    def generate_until(self, requests: list[Instance]) -> list[str]:
        raise RequestsBuilt

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise RequestsBuilt

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise RequestsBuilt
