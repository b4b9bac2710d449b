"""`fairkv sweep`: every cell of models × policies × tasks, on one loaded model and one prefill per prompt.

Answers go into a journal as they come. Once all answers of a cell are there, the harness's own `evaluate` turns them
into its files. Finished cells and journalled answers are never computed again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lm_eval.api.task import Task
from tqdm import tqdm

from fairkv_eval.errors import UsageError
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.loaded_model import LoadedModel
from fairkv_eval.sweep.loggers import check_loggers, update_card
from fairkv_eval.sweep.progress import Bars
from fairkv_eval.sweep.task_run import TaskRun
from fairkv_eval.sweep.tasks import load_tasks


def run_sweep(sweep: Sweep) -> list[Path]:
    """Run what is unfinished; return the folders of all cells, in the order models, tasks, policies."""
    check_launch(sweep)
    loaded = [(arguments, load_tasks(sweep, arguments)) for arguments in sweep.models]
    with SweepFolder(sweep.output_path).lock():
        folders = [folder for arguments, tasks in loaded for folder in run_model(sweep, arguments, tasks)]
    update_card(sweep)
    return folders


def check_launch(sweep: Sweep) -> None:
    """Raise UsageError if a configured logger is unavailable, or if several processes were launched: each would run
    the whole sweep."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError(
            f"{os.environ['WORLD_SIZE']} processes were launched (WORLD_SIZE), and each would run the whole sweep; "
            "start fairkv sweep as one process, or as several with --shard"
        )
    check_loggers(sweep)


def run_model(
    sweep: Sweep,
    arguments: Mapping[str, Any],
    tasks: Mapping[str, Task],
    journal_name: str = "journal",
    bars: Bars = tqdm,
) -> list[Path]:
    """Run what is unfinished of one model's cells; return the folders of them all. The caller holds the lock."""
    folder = SweepFolder(sweep.output_path)
    runs = task_runs(sweep, arguments, tasks)
    with folder.journal(journal_name) as journal:
        for run in runs:
            if run.unfinished:
                run.answer(journal, bars)
                run.follow(journal, bars)
                run.write()
    return [folder.cell(cell) for run in runs for cell in run.cells]


def task_runs(
    sweep: Sweep,
    arguments: Mapping[str, Any],
    tasks: Mapping[str, Task],
    documents: Callable[[Iterable[int]], set[int]] = set,
) -> list[TaskRun]:
    """The tasks on one model, which is loaded, and the journals read, once for them all. ``documents``: as `TaskRun`
    takes them."""
    model = LoadedModel.load(sweep, arguments)
    journalled = SweepFolder(sweep.output_path).answers()
    return [TaskRun(sweep, model, task, journalled, documents) for task in tasks.values()]
