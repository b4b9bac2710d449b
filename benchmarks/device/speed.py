"""Step c: prefill and decode steps of a Llama-3.1-8B-shaped model with random weights, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence

import rows
import torch
import work as amounts
from record import Record
from work import Work

from fairkv_eval.attention.backend import Backend
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.attach import attach_chosen
from fairkv_eval.engine.engine import Engine


def run(work: Work, record: Record) -> None:
    engine = record.attempt("load", lambda: load(work, record))
    if engine is None:
        return
    for n in work.prefill:
        record.attempt(f"prefill of {n} tokens", lambda n=n: prefill(engine, work, record, n))
    for ratio in work.ratios:
        for n_rows in (*work.rows, None):
            part = f"decode of {n_rows or 'as many as fit'} rows at ratio {ratio}"
            record.attempt(part, lambda ratio=ratio, n_rows=n_rows: decode(engine, work, record, ratio, n_rows))
    record.attempt("decode through sdpa", lambda: through_sdpa(engine, work, record))


def load(work: Work, record: Record) -> Engine:
    """An engine for the model, with the attention that `auto` chooses."""
    windows, backend, notes = attach_chosen(work.model)
    name = torch.cuda.get_device_name() if work.device != "cpu" else "CPU"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda}
    record.write("device", name=name, attention=backend.name, notes=notes, **versions)
    return engine_of(windows, backend, work, "off")


def engine_of(windows: Sequence[int | None], backend: Backend, work: Work, compile: str) -> Engine:
    return Engine(work.model, windows, max(work.rows), work.pass_tokens, backend=backend, compile=compile)


def prefill(engine: Engine, work: Work, record: Record, n: int) -> None:
    """One pass over as many contexts of n tokens as it takes, after one that warms up."""
    rows.empty_cache(work)
    n_contexts = max(1, work.pass_tokens // n)
    policy = rows.policy_of(0.5)

    def once() -> None:
        jobs = [rows.job_of(work, policy, n, seed) for seed in range(n_contexts)]
        engine.prefill(engine.scheduler(jobs).next(n_contexts))

    once()
    took = min(rows.seconds(work, once) for _ in range(2))
    speed = n_contexts * n / took
    record.write("prefill", tokens=n, contexts=n_contexts, tokens_per_s=speed, peak_gib=rows.peak_gib(work))


def decode(engine: Engine, work: Work, record: Record, ratio: float, n_rows: int | None) -> None:
    """Steps of so many rows; None: as many as fit."""
    policy = rows.policy_of(ratio)
    fit = rows.fitting(engine, work, policy)
    if n_rows is not None and n_rows > fit:
        record.write("decode", rows=n_rows, ratio=ratio, skipped=f"{fit} rows fit")
        return
    batch = rows.filled(engine, work, policy, n_rows or fit)
    figures = rows.step_figures(engine, work, batch)
    memory = {"kv_gib": batch.nbytes_allocated / rows.GIB, "peak_gib": rows.peak_gib(work)}
    record.write("decode", rows=len(batch), ratio=ratio, fits=n_rows is None, **figures, **memory)
    replayed = rows.replayed_figures(engine_of(engine.windows, engine.backend, work, "auto"), work, batch)
    record.write("decode, replayed", rows=len(batch), ratio=ratio, **replayed, peak_gib=rows.peak_gib(work))


def through_sdpa(engine: Engine, work: Work, record: Record) -> None:
    """The same steps as at the middle ratio, with torch's own attention under a mask."""
    other = engine_of(engine.windows, SDPA, work, "off")
    n_rows, ratio = work.rows[len(work.rows) // 2], work.ratios[len(work.ratios) // 2]
    batch = rows.filled(other, work, rows.policy_of(ratio), n_rows)
    record.write("decode through sdpa", rows=n_rows, ratio=ratio, **rows.step_figures(other, work, batch))


if __name__ == "__main__":
    record = Record("speed")
    run(amounts.parse(__doc__), record)
    record.exit()
