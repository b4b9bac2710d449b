"""Step e: what observing all attention costs at length (H2O), a replay (kvzip), and rows held in 4 bits."""

from __future__ import annotations

import rows
import torch
import work as amounts
from record import Record
from work import Work

from fairkv_eval.engine.attach import attach_chosen
from fairkv_eval.engine.engine import Engine
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.policy import Policy

PRESSES = ("knorm", "h2o", "kvzip")
CLOSE = 1e-3  # attention that a key gets from all queries, relative to the most


def run(work: Work, record: Record) -> None:
    engine = record.attempt("load", lambda: load(work))
    record.attempt("H2O's scores", lambda: observed(work, record))
    for press in PRESSES if engine else ():
        record.attempt(f"prefill under {press}", lambda press=press: prefill(engine, work, record, press))
    for bits in (16, 8, 4) if engine else ():
        record.attempt(f"rows in {bits} bits", lambda bits=bits: stored(engine, work, record, bits))


def load(work: Work) -> Engine:
    windows, backend, _ = attach_chosen(work.model)
    return Engine(work.model, windows, max(work.rows), work.pass_tokens, ask=lambda _: [7, 8, 9], backend=backend)


@torch.inference_mode()
def observed(work: Work, record: Record) -> None:
    """The attention that keys receive, in blocks, against one matrix in float64; in float32."""
    n, heads = min(work.long, 2048), work.sizes["num_attention_heads"]
    kv_heads, dim = work.sizes["num_key_value_heads"], work.sizes["head_dim"]
    q, k = (torch.randn(h, n, dim, device=work.device) for h in (heads, kv_heads))
    received = Layer(q, k, k, dim**-0.5).column_sums(0, n)
    most = 0.0
    for head in range(heads):
        logits = q[head].double() @ k[head // (heads // kv_heads)].double().T * dim**-0.5
        logits.masked_fill_(torch.ones_like(logits, dtype=torch.bool).triu(1), float("-inf"))
        exact = logits.softmax(-1).sum(0)
        most = max(most, float(((received[head] - exact).abs() / exact.max()).max()))
    record.write("h2o scores", tokens=n, largest_difference=most)
    if not most <= CLOSE:
        raise AssertionError(f"H2O's scores are off by {most}")


def prefill(engine: Engine, work: Work, record: Record, press: str) -> None:
    """One long context, prefilled and evicted from; the second run counts."""
    rows.empty_cache(work)
    job = rows.job_of(work, Policy.of({"press": press, "ratio": 0.5}), work.long)

    def once() -> None:
        engine.prefill(engine.scheduler([job]).next(1))

    rows.seconds(work, once)
    record.write(
        "prefill", press=press, tokens=work.long, seconds=rows.seconds(work, once), peak_gib=rows.peak_gib(work)
    )


def stored(engine: Engine, work: Work, record: Record, bits: int) -> None:
    """Decode steps of rows that hold the full cache in so many bits."""
    rows.empty_cache(work)
    n_rows = work.rows[len(work.rows) // 2]
    batch = rows.filled(engine, work, rows.policy_of(0.0, kv_bits=bits), n_rows)
    held = sum(cache.nbytes_held for cache in batch.caches) / rows.GIB
    record.write("storage", bits=bits, rows=n_rows, kv_gib=held, **rows.step_figures(engine, work, batch))


if __name__ == "__main__":
    record = Record("presses")
    run(amounts.parse(__doc__), record)
    record.exit()
