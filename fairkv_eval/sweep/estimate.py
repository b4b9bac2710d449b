"""What a sweep would cost, before it runs: its cells, the tokens they need, and a time from a short measured rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fairkv_eval.engine.jobs import Generate, Job, Score, Totals
from fairkv_eval.engine.scheduler import context_tokens
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.run import Work, check, followed, load_model, load_tasks, plan

_STEPS = 8  # tokens an answer of the measurement, long enough for its first steps not to decide


@dataclass(frozen=True)
class Tokens:
    """What is left to compute: contexts (each once), tails, and at most this many new tokens."""

    prefill: int = 0
    tail: int = 0
    decode: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(self.prefill + other.prefill, self.tail + other.tail, self.decode + other.decode)

    def seconds(self, measured: Totals) -> float:
        """At the speeds of a measurement."""
        spent = (
            (self.prefill, measured.prefill_seconds, measured.prefill_tokens),
            (self.tail, measured.tail_seconds, measured.tail_tokens),
            (self.decode, measured.decode_seconds, measured.decode_tokens),
        )
        return sum(tokens * seconds / known for tokens, seconds, known in spent if known)


def tokens_of(jobs: Sequence[Job]) -> Tokens:
    """Of one engine run. Contexts that only begin alike share a prefill too; that is not counted."""
    prefill = sum(map(len, {context_tokens(job) for job in jobs}))
    tail = sum(len(job.prompt.tokens) - job.prompt.context_length for job in jobs)
    tail += sum(len(job.want.continuation) - 1 for job in jobs if isinstance(job.want, Score))
    return Tokens(prefill, tail, sum(job.want.max_tokens for job in jobs if isinstance(job.want, Generate)))


def followers(model: FairKV, work: Work) -> list[Job]:
    """The jobs that are taken along the full cache's answers, its own among them."""
    if not work.unfinished:
        return []
    policies = list(dict.fromkeys(cell.policy for cell in (work.full, *work.unfinished)))
    return [job for place, repeat in work.asked for job in model.jobs(work.requests[place], policies, repeat)]


def tokens_of_fidelity(jobs: Sequence[Job]) -> Tokens:
    """Of scoring the longest answers they may get; contexts are read for the full cache and again for the others."""
    once = tokens_of(jobs)
    return Tokens(2 * once.prefill, once.tail + once.decode)


def dry_run(sweep: Sweep) -> list[dict[str, Any]]:
    """A row a model and task: documents, cells, what is finished and what is left of them. Nothing is written."""
    check(sweep)
    tasks = load_tasks(sweep)
    rows = []
    for arguments in sweep.models:
        model = load_model(sweep, arguments)
        for work in plan(sweep, arguments, model, tasks, {}):
            along = followers(model, work) if followed(sweep, work.task) else []
            rows.append(_row(arguments, model, work, along))
    return rows


def _row(arguments: Mapping[str, Any], model: FairKV, work: Work, along: Sequence[Job]) -> dict[str, Any]:
    jobs = [entry.job for entry in work.todo]
    needed = tokens_of(jobs) + tokens_of_fidelity(along)
    return {
        "model": arguments.get("pretrained", "default"),
        "task": work.task.task_name,
        "documents": len({request.doc_id for request in work.requests}),
        "policies": [cell.name for cell in work.cells],
        "cells": len(work.cells),
        "finished": len(work.cells) - len(work.unfinished),
        "answers": len(jobs),
        "prefill_tokens": needed.prefill,
        "tail_tokens": needed.tail,
        "max_decode_tokens": needed.decode,
        "seconds": needed.seconds(measure(model, jobs or along)),
    }


def measure(model: FairKV, jobs: Sequence[Job]) -> Totals:
    """Totals of one short run: a full batch of the first jobs, with a few tokens each."""
    batch = jobs[: int(model.batch_size) if model.batch_size != "auto" else 16]
    model.reset_totals()
    for _ in model.run([_shortened(job) for job in batch]) if batch else ():
        pass
    return model.totals


def _shortened(job: Job) -> Job:
    want = job.want
    return (
        replace(job, want=replace(want, max_tokens=min(_STEPS, want.max_tokens))) if isinstance(want, Generate) else job
    )
