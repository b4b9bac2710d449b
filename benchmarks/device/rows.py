"""Decoding rows that are filled rather than prefilled, and what a step of theirs takes on host and device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from work import Work

from fairkv_eval.engine.batch import Batch, Row
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.engine.memory import entries, memory_budget, rows_that_fit
from fairkv_eval.engine.phases import Decode
from fairkv_eval.engine.sampling import GREEDY, Sampler
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.storage.pairs import Pairs, store

GIB = 1 << 30
WANT = Generation(120)  # more than are measured, so no row ends
WARM_UP = 4  # steps: one that grows the buffers, one that is recorded and compared, and two replays
_PART = 0.8  # of the free memory for rows


def policy_of(ratio: float, **arguments: Any) -> Policy:
    """knorm at this ratio; the full cache at 0."""
    return Policy.of({**({"press": "knorm", "ratio": ratio} if ratio else {}), **arguments})


def job_of(work: Work, policy: Policy, n: int | None = None, seed: int = 0) -> Job:
    """A generation over a context of n tokens and a tail."""
    n = work.context if n is None else n
    return Job(Prompt(work.tokens(n + work.tail, seed), n), policy, Generation(4 * work.steps), "device check")


def fitting(engine: Engine, work: Work, policy: Policy) -> int:
    """Rows of such jobs that the free memory holds."""
    empty_cache(work)
    budget = memory_budget(_PART, torch.device(work.device))
    return rows_that_fit([job_of(work, policy)], entries(engine.runner.model), budget, work.most_rows)


def filled(engine: Engine, work: Work, policy: Policy, n_rows: int) -> Batch:
    """A batch of rows whose contexts the policy has compressed, by count: their pairs are random."""
    kept = (policy.n_kept(work.context) if policy.press else work.context) + work.tail
    layers = []
    for entry in entries(engine.runner.model):
        kind = {"dtype": entry.dtype, "device": work.device}
        keys, values = (torch.randn(entry.kv_heads, kept, dim, **kind) for dim in (entry.key_dim, entry.value_dim))
        layers.append([store(policy.storage, Pairs(keys, values), keys)])
    batch = Batch(n_rows)
    batch.add([(row(work, index), layers) for index in range(n_rows)])
    return batch


def row(work: Work, index: int) -> Row:
    position = work.context + work.tail
    return Row(index, WANT, position, Sampler(GREEDY, ()), {}, tokens=[index % 256])


@torch.inference_mode()
def step_figures(engine: Engine, work: Work, batch: Batch) -> dict[str, Any]:
    """Milliseconds of a decode step, medians: ``step_ms`` in whole, with the next tokens chosen; of its forward pass,
    ``host_ms`` to issue it, ``span_ms`` on the device from its first kernel to its last, and ``device_ms``, what its
    kernels take. The last two are None on a CPU."""
    for _ in range(2):
        engine.decode_step(batch)
    passes = [forward_times(engine, work, batch) for _ in range(work.steps)]
    synchronize(work)
    whole = [seconds(work, lambda: engine.decode_step(batch)) for _ in range(work.steps)]
    host, span = (statistics.median(values) for values in zip(*passes, strict=True))
    step = statistics.median(whole)
    figures = {"step_ms": step * 1e3, "tokens_per_s": len(batch) / step, "host_ms": host * 1e3}
    if work.device == "cpu":
        return {**figures, "span_ms": None, "device_ms": None}
    return {**figures, "span_ms": span, "device_ms": kernel_ms(lambda: forward(engine, batch), work)}


@torch.inference_mode()
def replayed_figures(engine: Engine, work: Work, batch: Batch) -> dict[str, Any]:
    """Milliseconds per replayed step, the tokens read one step late, and of the step that records; None if no step is
    replayed."""
    recorded = [seconds(work, lambda: engine.decode_step(batch)) for _ in range(WARM_UP)]
    if not engine.totals.replayed_steps:
        return {"step_ms": None, "tokens_per_s": None, "record_ms": None}

    def steps() -> None:
        for _ in range(work.steps):
            engine.decode_step(batch)

    step = seconds(work, steps) / work.steps
    engine.drain(batch)
    return {"step_ms": step * 1e3, "tokens_per_s": len(batch) / step, "record_ms": max(recorded[1:]) * 1e3}


def forward(engine: Engine, batch: Batch) -> None:
    """The forward pass of a decode step; every row grows by a pair, and keeps its token and position."""
    rows = batch.rows
    phase = Decode(batch.caches, backend=engine.backend)
    engine.runner.forward(phase, [r.tokens[-1] for r in rows], [r.position for r in rows], [*range(len(rows))])


def forward_times(engine: Engine, work: Work, batch: Batch) -> tuple[float, float]:
    """Seconds until the host has issued a pass, and milliseconds between its first and last event on the device."""
    synchronize(work)
    on_device = work.device != "cpu"
    events = [torch.cuda.Event(enable_timing=True) for _ in "ab"] if on_device else []
    started = time.perf_counter()
    for event in events[:1]:
        event.record()
    forward(engine, batch)
    for event in events[1:]:
        event.record()
    issued = time.perf_counter() - started
    synchronize(work)
    return issued, events[0].elapsed_time(events[1]) if events else 0.0


def kernel_ms(work_once: Callable[[], None], work: Work) -> float | None:
    """Milliseconds that the device's kernels take, added up; None if the profiler cannot see them."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            work_once()
            synchronize(work)
        micros = sum(event.self_device_time_total for event in profiled.key_averages())
    except (RuntimeError, AttributeError):
        return None
    return micros / 1e3 if micros else None


def seconds(work: Work, once: Callable[[], Any]) -> float:
    """Wall time of something, until the device is done with it."""
    started = time.perf_counter()
    once()
    synchronize(work)
    return time.perf_counter() - started


def synchronize(work: Work) -> None:
    if work.device != "cpu":
        torch.cuda.synchronize()


def empty_cache(work: Work) -> None:
    """Give back what no tensor holds, and begin the peak anew."""
    if work.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_gib(work: Work) -> float | None:
    """The most memory that tensors have held since `empty_cache`."""
    return torch.cuda.max_memory_allocated() / GIB if work.device != "cpu" else None
