"""Rows by bytes: what `batch_size=auto` fills and what `kv_memory` allows."""

from __future__ import annotations

import pytest
import tiny
import torch

from fairkv_eval.engine.buffer import BLOCK
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.memory import GIB, entries, memory_budget, rows_that_fit
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.model import FairKV
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.storage.room import Entry

TOVA = load_press("tova")
ENTRIES = [Entry(2, 16, 16, torch.float32)] * 3  # KV heads, key and value dims, layer by layer
ENTRY = 3 * 2 * (16 + 16) * 4


def job(want: Generation | LogLikelihood, policy: Policy | None = None, n: int = 1000) -> Job:
    return Job(Prompt(tuple(i % 256 for i in range(n + 10)), n), policy or Policy(), want, "doc")


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "phi3"])
def test_bytes_of_an_entry_are_those_of_the_cache(kind: str) -> None:
    model = tiny.model(kind)
    windows = attach_checked(model)
    engine = Engine(model, windows)
    list(engine.run([job(LogLikelihood((1,)), n=20)]))
    assert sum(entry.nbytes_plain(20) for entry in entries(model)) == engine.totals.kv_bytes_full


@pytest.mark.parametrize(
    "arguments", [{"kv_bits": 3}, {"kv_bits": "k4v2", "kv_scheme": "kivi", "kv_group": 8}, {"key_channels": 0.3}]
)
def test_bytes_in_a_storage_are_those_of_the_cache(arguments: dict) -> None:
    model = tiny.model()
    engine = Engine(model, attach_checked(model))
    own = Policy.of(arguments)
    list(engine.run([job(LogLikelihood((1,)), own, n=200)]))
    assert sum(entry.nbytes(200, own.storage) for entry in entries(model)) == engine.totals.kv_bytes_kept


@pytest.mark.parametrize(
    "policy, want, tokens",
    [
        (Policy(), Generation(100), 1110),
        (Policy(TOVA, ratio=0.9), Generation(100), 210),
        (Policy(TOVA, budget=64), Generation(100), 174),
        (Policy(TOVA, budget=64, decode_budget=80, decode_every=16), Generation(100), 96),
        (Policy(TOVA, decode_budget=80), Generation(100), 1010),
        (Policy(), LogLikelihood((1, 2, 3)), 1013),
        (Policy.of({"press": "simlayerkv"}), Generation(100), 1110),  # at most: the text decides
        (Policy.of({"press": "layer_ratios", "by_layer": "0.5+0.9+0.9"}), Generation(100), 344),  # 233⅓ on average
    ],
)
def test_rows_are_as_many_as_the_longest_allows(policy: Policy, want: Generation | LogLikelihood, tokens: int) -> None:
    row = (tokens + 2 * BLOCK) * ENTRY
    jobs = [job(want, policy), job(want, policy, n=5)]
    assert rows_that_fit(jobs, ENTRIES, 7 * row, 64) == 7
    assert rows_that_fit(jobs, ENTRIES, 7 * row - 1, 64) == 6
    assert rows_that_fit(jobs, ENTRIES, 1000 * row, 64) == 64
    assert rows_that_fit(jobs, ENTRIES, 1, 64) == 1


@pytest.mark.parametrize(
    "arguments", [{}, {"kv_bits": 4}, {"kv_bits": 3, "kv_scheme": "kivi", "kv_group": 16}, {"key_channels": 0.5}]
)
def test_buffers_of_so_many_rows_stay_inside_the_budget(arguments: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model()
    windows = attach_checked(model)
    policy = Policy.of(arguments)
    jobs = [job(Generation(150), policy, n=n) for n in (300, 290, 120, 310, 40, 10, 305, 99)]
    budget = 3 * (310 + 10 + 150 + 2 * BLOCK) * ENTRY
    rows = rows_that_fit(jobs, entries(model), budget, 64)
    # Of three layers, the one that is widened takes more than half of the key channels of all give back.
    assert rows == (3 if policy.storage.plain else 2) if policy.kv_bits == 16 else 3 < rows < 9
    held = []
    step = Engine.decode_step

    def watched(self, batch):
        result = step(self, batch)
        held.append(batch.nbytes_allocated)
        return result

    monkeypatch.setattr(Engine, "decode_step", watched)
    list(Engine(model, windows, rows).run(jobs))
    assert 0 < max(held) <= budget


def test_a_budget_is_gib_or_a_part_of_what_is_free() -> None:
    cpu = torch.device("cpu")
    assert memory_budget(2, cpu) == 2 * GIB and memory_budget(1.5, cpu) == 3 * GIB // 2
    assert 0 < memory_budget(0.25, cpu) < memory_budget(0.5, cpu)


@pytest.mark.parametrize("value", [0, -1, "4GB", True, float("nan")])
def test_a_budget_that_cannot_be(value: object) -> None:
    with pytest.raises(UsageError, match=r"kv_memory=.* is not allowed; it takes GiB from 1, or below 1 a part"):
        memory_budget(value, torch.device("cpu"))


def test_batch_size_auto_fills_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    init = Engine.__init__

    def seen(self, model, windows, rows_, *args, **kwargs):
        rows.append(rows_)
        init(self, model, windows, rows_, *args, **kwargs)

    monkeypatch.setattr(Engine, "__init__", seen)
    requests = [tiny.generation("some words of a prompt", max_gen_toks=4) for _ in range(3)]
    for kv_memory, expected in ((4, 64), (1e-9, 1)):
        lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), batch_size="auto", kv_memory=kv_memory, device="cpu")
        lm.generate_until(requests)
        assert rows.pop() == expected
