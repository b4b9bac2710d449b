"""`budget_bytes` through the engine: what is held, from the tensors, fits and leaves less than a pair per head."""

from __future__ import annotations

from dataclasses import replace

import press_table
import pytest
import tiny
from engine_runs import attached, prompt
from pairwise import pairwise
from press_table import OWN, PRESSES

from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.memory import entries, rows_that_fit
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.model import FairKV

STORAGES = {
    "plain": {},
    "4": {"kv_bits": 4},
    "rotated k8v4": {"kv_bits": "k8v4", "kv_scheme": "rotated"},
    "channels": {"key_channels": 0.4, "kv_bits": "k16v4"},
    "kivi": {"kv_bits": 2, "kv_scheme": "kivi", "kv_group": 4, "kv_residual": 10},
}
NAMES = [name for name in PRESSES if name.split()[0] not in OWN]


def held(kind: str, policy: Policy, n: int = 60) -> tuple[int, int, int]:
    """Bytes held of a context and in full, and pairs that are kept."""
    engine = Engine(*attached(kind), ask=lambda request: [1, 2, 3])
    list(engine.run([Job(prompt(0, n + 6, n), policy, LogLikelihood((1,)), "doc")]))
    return engine.totals.kv_bytes_kept, engine.totals.kv_bytes_full, engine.totals.kv_pairs_kept


@pytest.mark.parametrize(
    "name, storage, fair, budget",
    pairwise(NAMES, list(STORAGES), [0.0, 0.5, 1.0], [0.7, 0.15, 0.05, "12KiB"]),
)
def test_what_is_held_fits(name: str, storage: str, fair: float, budget: float | str) -> None:
    policy = replace(press_table.policy(name, 0, fair), budget_bytes=budget)
    policy = replace(policy, **STORAGES[storage])
    kept, full, pairs = held("llama", policy)
    allowed = round(budget * full, 3) if isinstance(budget, float) else 12 * 1024
    assert kept <= allowed
    per_pair = full / 60  # of all layers and heads
    if storage == "kivi" and not policy.division.uniform:
        per_pair *= 4  # the newest of a group wait for it, counted plain
    assert allowed - kept < per_pair or pairs == 60 * 6


def test_a_pair_more_would_not_fit() -> None:
    """Per token, every layer and head keeps floor(budget / bytes of a pair)."""
    bytes_of_a_pair = 16 * 4 / 8 * 2 + 2 * 2 * 2  # 4 bits a channel; a scale and a zero for keys and for values
    budget = 0.1 * 60 * (16 + 16) * 4
    _, _, pairs = held("llama", Policy.of({"press": "knorm", "budget_bytes": 0.1, "kv_bits": 4}))
    assert pairs == 6 * int(budget / bytes_of_a_pair)


def test_sliding_windows_count() -> None:
    model = tiny.model("gemma2", sliding_window=16)
    windows = attach_checked(model)
    engine = Engine(model, windows)
    sliding = sum(entry.nbytes_plain(16) for entry in entries(model) if entry.window)
    assert [entry.window for entry in entries(model)] == list(windows) and sliding

    def run(budget: float) -> None:
        job = Job(prompt(0, 66, 60), Policy.of({"press": "knorm", "budget_bytes": budget}), LogLikelihood((1,)), "doc")
        list(engine.run([job]))

    run(0.8)
    assert 0.75 < engine.totals.kv_bytes_kept / engine.totals.kv_bytes_full <= 0.8
    with pytest.raises(UsageError, match=r"doc: budget_bytes=0.1 of .* 60 tokens is .* sliding windows take "):
        run(0.1)


def test_a_context_of_few_tokens_keeps_one_pair_per_head() -> None:
    for n in (1, 2, 5):
        assert held("llama", Policy.of({"press": "knorm", "budget_bytes": 0.01}), n)[2] == 6


def test_a_storage_alone_fits_or_is_refused_with_both_numbers() -> None:
    assert held("llama", Policy.of({"kv_bits": 4, "budget_bytes": 0.2}))[2] == 6 * 60
    with pytest.raises(UsageError, match=r"doc: budget_bytes=0.1 of .* is 4,608 bytes, and full .* holds 8,640"):
        held("llama", Policy.of({"kv_bits": 4, "budget_bytes": 0.1}))
    with pytest.raises(UsageError, match=r"budget_bytes=0.1 of a context of 1048576 tokens is .* holds "):
        FairKV(tiny.model(), tokenizer=tiny.tokenizer(), kv_bits=4, budget_bytes=0.1)


def test_rows_are_counted_as_short_as_they_become() -> None:
    of_model = entries(attached("llama")[0])

    def rows(**arguments: object) -> int:
        job = Job(prompt(0, 1006, 1000), Policy.of({"press": "knorm", **arguments}), Generation(10), "doc")
        return rows_that_fit([job], of_model, 1 << 24, 1000)

    assert rows(budget_bytes=0.25) == rows(ratio=0.75) > rows(ratio=0.5)
    # A pair takes 128 bytes plain and 40 packed, so 0.25 of 1,000 plain ones is 800 packed ones.
    assert rows(budget_bytes=0.25, kv_bits=8) == rows(ratio=0.2, kv_bits=8) < rows(ratio=0.5, kv_bits=8)
