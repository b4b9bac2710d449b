"""The tasks of a sweep: loaded by the harness, and their requests built by it."""

from __future__ import annotations

from contextlib import suppress

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from fairkv_eval import plugin
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.stand_ins import RequestsBuilt, TemplateModel


def load_tasks(sweep: Sweep) -> dict[str, Task]:
    """Tasks by name; a group or tag stands for its tasks. UsageError for one that is unknown or cannot be swept."""
    plugin.install()
    manager = TaskManager(include_path=list(sweep.include_path) or None, metadata=sweep.metadata or {})
    for name in sweep.tasks:
        if name not in manager.task_index:
            raise unknown("task", name, manager.all_tasks, listed_by="lm_eval ls tasks")
    tasks = manager.load(list(sweep.tasks))["tasks"]
    for name, task in tasks.items():
        if task.OUTPUT_TYPE == "loglikelihood_rolling":
            raise UsageError(
                f"task {name} scores rolling windows, whose contexts of one token leave nothing to compress: every "
                "cell would be the same. Leave it out"
            )
    return dict(tasks)


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
