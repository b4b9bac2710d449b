"""`fairkv sweep`: every cell of models × policies × tasks, on one loaded model and one prefill a prompt for all cells.

Answers go into a journal as they come. A cell whose answers are all there is scored by the harness's own `evaluate`,
and its files appear at once; finished cells and journalled answers are never asked for again.
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from filelock import FileLock, Timeout
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager
from tqdm import tqdm

from fairkv_eval import plugin
from fairkv_eval.engine.fidelity import Lead
from fairkv_eval.engine.jobs import Follow, Job, Result, Score
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.cell import Cell, digest, digest_of_requests, identity
from fairkv_eval.sweep.cell_files import Source, add_fidelity, cell_folder, finished, score, write
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.journal import Answer, Journal, Key, read_answers
from fairkv_eval.sweep.loggers import check_loggers, update_card
from fairkv_eval.sweep.stand_ins import Asked, Asking

log = logging.getLogger(__name__)

# Model arguments that change how a run goes, not what it answers, and the name, which `FairKV.identity` tells.
_NO_MATTER = {"pretrained", "kv_memory", "max_prefill_tokens"}
_LOGITS = 1024  # places of one pass whose distributions over the whole vocabulary are held at once

Bars = Callable[..., tqdm]  # tqdm, or what tells how far a sweep is without drawing it


@dataclass(frozen=True)
class Open:
    """An answer that is still to be found, and the job that finds it."""

    key: Key
    request: Instance
    job: Job


@dataclass(frozen=True)
class Work:
    """One task on one model: its requests, in the harness's order, its cells, and what is left to do for them."""

    task: Task
    requests: tuple[Instance, ...]
    cells: tuple[Cell, ...]
    unfinished: tuple[Cell, ...] = ()
    todo: tuple[Open, ...] = ()

    @property
    def asked(self) -> list[tuple[int, int]]:
        """Every request of a cell: its place, and how often it was asked before."""
        return [(i, repeat) for i, request in enumerate(self.requests) for repeat in range(request.repeats or 1)]

    @property
    def full(self) -> Cell:
        """The full cache's cell."""
        return next(cell for cell in self.cells if cell.policy == Policy())


def run_sweep(sweep: Sweep) -> list[Path]:
    """Run what is not finished yet; the folders of all cells, in the order models, tasks, policies."""
    check(sweep)
    tasks = load_tasks(sweep)
    with locked(sweep.output_path):
        folders = [folder for arguments in sweep.models for folder in run_model(sweep, arguments, tasks)]
    update_card(sweep)
    return folders


def check(sweep: Sweep) -> None:
    """UsageError where what tells of the cells cannot, or under a launcher of several processes, each of which would
    run the whole sweep."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        raise UsageError(
            f"{os.environ['WORLD_SIZE']} processes were launched (WORLD_SIZE), and each would run the whole sweep; "
            "start fairkv sweep as one process"
        )
    check_loggers(sweep)


def followed(sweep: Sweep, task: Task) -> bool:
    """Whether each policy is to be taken along the full cache's answers."""
    return sweep.fidelity and task.OUTPUT_TYPE == "generate_until"


def load_tasks(sweep: Sweep) -> dict[str, Task]:
    """The tasks by name, groups and tags as what they hold; UsageError for one that is unknown or cannot be swept."""
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


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other sweeps out of a folder."""
    inside = output / ".sweep"
    try:
        inside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"output_path={str(output)!r} is no folder to write to ({error.strerror})") from error
    try:
        with FileLock(inside / "lock", timeout=0):
            yield
    except Timeout as error:
        raise UsageError(
            f"another sweep is running in {output}; wait until it ends, or name another output_path"
        ) from error


def load_model(sweep: Sweep, arguments: Mapping[str, Any]) -> FairKV:
    """The model of some cells, seeded as `lm_eval` seeds it."""
    random.seed(sweep.seed[0])
    numpy.random.seed(sweep.seed[1])
    torch.manual_seed(sweep.seed[2])
    return FairKV(**arguments, batch_size=sweep.batch_size, device=sweep.device)


def _cells(sweep: Sweep, arguments: Mapping[str, Any], model: FairKV, task: Task) -> Work:
    """A task's requests, built by the harness, and its cells."""
    with suppress(Asked):
        simple_evaluate(
            Asking(model),
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
    requests = tuple(task.instances)
    told = {
        **model.identity(),
        "arguments": {k: v for k, v in arguments.items() if k not in _NO_MATTER},
        "hub_commit": getattr(model.config, "_commit_hash", None),
        "device": model.device.type,
    }
    found = digest_of_requests(requests)
    # Fidelity adds to answers and changes none: a sweep can ask for it later.
    settings = replace(sweep, fidelity=False).shared()
    identities = (identity(task, policy, told, settings, found) for policy in sweep.policies)
    cells = (Cell(task.task_name, policy, own) for policy, own in zip(sweep.policies, identities, strict=True))
    return Work(task, requests, tuple(cells))


def plan(
    sweep: Sweep, arguments: Mapping[str, Any], model: FairKV, tasks: Mapping[str, Task], known: dict[Key, Answer]
) -> list[Work]:
    """All work on one model; ``known`` is given the answers that are journalled.

    All of it before the first job runs, so that what is wrong with a prompt is told at once.
    """
    works = []
    name = Source(model, arguments, {}, 0.0).name
    for task in tasks.values():
        work = _cells(sweep, arguments, model, task)
        told = followed(sweep, task)
        folders = {cell.id: cell_folder(sweep.output_path, name, cell) for cell in work.cells}
        left = tuple(cell for cell in work.cells if not finished(folders[cell.id], told))
        compared = {work.full.id} if told and left else set()
        known.update(read_answers(journals(sweep.output_path), compared | {cell.id for cell in left}))
        if compared and work.full not in left and any(Key(work.full.id, *asked) not in known for asked in work.asked):
            left = (work.full, *left)
        works.append(replace(work, unfinished=left, todo=tuple(open_jobs(model, work, left, known))))
    return works


def run_model(
    sweep: Sweep,
    arguments: Mapping[str, Any],
    tasks: Mapping[str, Task],
    journal_name: str = "journal",
    bars: Bars = tqdm,
) -> list[Path]:
    """Run what is not finished of one model's cells; the folders of them all. The folder's lock is held already."""
    model = load_model(sweep, arguments)
    known: dict[Key, Answer] = {}
    works = plan(sweep, arguments, model, tasks, known)
    with Journal(sweep.output_path / ".sweep" / f"{journal_name}.jsonl") as journal:
        for work in works:
            if not work.unfinished:
                continue
            began = time.time()
            model.reset_totals()
            known.update(ask(model, work, journal, bars))
            if followed(sweep, work.task):
                known.update(follow(model, work, known, journal, bars))
            source = Source(model, arguments, model.get_model_info(), began)
            with _told_once():
                for cell in work.unfinished:
                    answers = {asked: known[Key(cell.id, *asked)] for asked in work.asked}
                    results = score(work.task, work.requests, answers, sweep, source)
                    add_fidelity(results, work.requests, answers)
                    write(sweep.output_path, cell, results, answers, sweep, source)
    name = Source(model, arguments, {}, 0.0).name
    return [cell_folder(sweep.output_path, name, cell) for work in works for cell in work.cells]


def journals(output: Path) -> list[Path]:
    return sorted((output / ".sweep").glob("journal*.jsonl"))


def open_jobs(model: FairKV, work: Work, cells: Sequence[Cell], known: Mapping[Key, Answer]) -> list[Open]:
    """What is still to be asked, request by request, a request's cells side by side."""
    found: list[Open] = []
    for place, repeat in work.asked:
        request = work.requests[place]
        left = [cell for cell in cells if Key(cell.id, place, repeat) not in known]
        jobs = model.jobs(request, [cell.policy for cell in left], repeat) if left else []
        found += [Open(Key(c.id, place, repeat), request, job) for c, job in zip(left, jobs, strict=True)]
    return found


def ask(model: FairKV, work: Work, journal: Journal, bars: Bars = tqdm) -> dict[Key, Answer]:
    """Run the jobs in one engine run and write every answer down as it comes."""
    todo = work.todo
    answers: dict[Key, Answer] = {}
    left = Counter(entry.key.cell for entry in todo)
    prompts = Counter((entry.key.request, entry.key.repeat) for entry in todo)
    total = {"cells": len(left), "prompts": len(prompts)}
    tokens, began = 0, time.perf_counter()
    with bars(total=len(todo), desc=work.task.task_name, unit="answer", disable=not todo) as bar:
        for index, result in model.run([entry.job for entry in todo]) if todo else ():
            entry = todo[index]
            answers[entry.key] = answer_of(model, entry, result)
            journal.write(entry.key, answers[entry.key])
            _count(left, entry.key.cell)
            _count(prompts, (entry.key.request, entry.key.repeat))
            tokens += len(entry.job.want.continuation) if isinstance(entry.job.want, Score) else len(result.tokens)
            done = {"cells": total["cells"] - len(left), "prompts": total["prompts"] - len(prompts)}
            told = ", ".join(f"{done[name]}/{total[name]} {name}" for name in total)
            bar.set_postfix_str(f"{told}, {tokens / (time.perf_counter() - began):.0f} tokens/s", refresh=False)
            bar.update(1)
    return answers


def follow(
    model: FairKV, work: Work, known: Mapping[Key, Answer], journal: Journal, bars: Bars = tqdm
) -> dict[Key, Answer]:
    """Take each policy along the full cache's answers, a few prompts at a time, whose distributions are held."""
    answers: dict[Key, Answer] = {}
    cells = [work.full, *(cell for cell in work.unfinished if cell != work.full)]
    said = {asked: known[Key(work.full.id, *asked)].tokens for asked in work.asked}
    with bars(total=len(said), desc=f"{work.task.task_name} fidelity", unit="prompt") as bar:
        for group in _groups(said):
            leads, followers = [], []
            for place, repeat in group:
                left = [c for c in cells if c == work.full or known[Key(c.id, place, repeat)].fidelity is None]
                if len(left) == 1 and known[Key(left[0].id, place, repeat)].fidelity is not None:
                    continue
                want = Follow(said[place, repeat], Lead())
                jobs = model.jobs(work.requests[place], [cell.policy for cell in left], repeat)
                keys = [Key(cell.id, place, repeat) for cell in left]
                first, *others = [(key, replace(job, want=want)) for key, job in zip(keys, jobs, strict=True)]
                leads.append(first)
                followers += others
            for entries in filter(None, (leads, followers)):  # the full cache goes first
                for index, result in model.run([job for _, job in entries], _LOGITS):
                    key = entries[index][0]
                    assert result.fidelity is not None
                    answers[key] = replace(known[key], fidelity=result.fidelity)
                    journal.write_fidelity(key, result.fidelity)
            bar.update(len(group))
    return answers


def _groups(said: Mapping[tuple[int, int], Sequence[int]]) -> Iterator[list[tuple[int, int]]]:
    """Prompts whose answers have as many tokens together as distributions are held for, at least one."""
    group: list[tuple[int, int]] = []
    for asked, tokens in said.items():
        if group and sum(len(said[other]) for other in group) + len(tokens) > _LOGITS // 2:
            yield group
            group = []
        group.append(asked)
    yield group


def answer_of(model: FairKV, entry: Open, result: Result) -> Answer:
    """What the journal keeps of a result."""
    prompt = entry.job.prompt
    context = digest([prompt.tokens[: prompt.context_length], prompt.segments, prompt.marks])[:16]
    told = model.answer(entry.request, result)
    if isinstance(told, tuple):
        return Answer(result.telemetry, context, logprob=told[0], greedy=told[1])
    return Answer(result.telemetry, context, text=str(told), tokens=result.tokens)


@contextmanager
def _told_once() -> Iterator[None]:
    """The harness says the same of every cell: each of its warnings once."""
    seen: set[str] = set()

    def first(record: logging.LogRecord) -> bool:
        new = record.getMessage() not in seen
        seen.add(record.getMessage())
        return new

    logger = logging.getLogger("lm_eval.evaluator_utils")
    logger.addFilter(first)
    try:
        yield
    finally:
        logger.removeFilter(first)


def _count(left: Counter, name: Any) -> None:
    left[name] -= 1
    if not left[name]:
        del left[name]
