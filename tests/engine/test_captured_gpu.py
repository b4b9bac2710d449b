"""CUDA graphs of decode steps against eager steps, on a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_runs import ask, assert_same, attached, prompt
from press_table import policy

from fairkv_eval.attention.backend import Backend
from fairkv_eval.engine import captured
from fairkv_eval.engine.attach import attach_chosen
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.engine.sampling import Sampling
from fairkv_eval.eviction.policy import Policy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PRESSES = ["none", "tova", "snapkv", "pyramidkv small", "adakv small"]
KINDS = ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2"]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Recordings of few steps, so that many are made."""
    monkeypatch.setattr(captured, "ROOM", 5)
    monkeypatch.setattr(captured, "FEWEST", 1)
    yield
    torch.cuda.synchronize()


def both(kind: str, dtype: torch.dtype, jobs: list[Job], rows: int, **options: Any) -> tuple[list, list, Engine]:
    """Results of replayed steps, of eager ones, and the engine of the first."""
    model, _ = attached(kind, dtype)
    model.set_attn_implementation("sdpa")
    windows, backend, _ = attach_chosen(model.cuda())
    replayed = engine_of(model, windows, backend, "auto", rows, **options)
    eager = engine_of(model, windows, backend, "off", rows, **options)
    one, other = (dict(engine.run(jobs)) for engine in (replayed, eager))
    assert not eager.totals.replayed_steps
    return [one[i] for i in range(len(jobs))], [other[i] for i in range(len(jobs))], replayed


def engine_of(model: Any, windows: Any, backend: Backend, compile: str, rows: int, **options: Any) -> Engine:
    def note(text: str) -> None:
        raise AssertionError(text)

    return Engine(model, windows, rows, ask=ask, backend=backend, compile=compile, note=note, **options)


def job(seed: int, n: int, name: str, want: Generation) -> Job:
    return Job(prompt(seed, n + 4, n, n // 2), Policy() if name == "none" else policy(name, 0.5, 0.5), want, "")


@pytest.mark.parametrize("name", PRESSES)
def test_graphs_answer_as_eager_steps(name: str) -> None:
    jobs = [job(seed, 20 + 9 * seed, name, Generation(7 + 4 * seed)) for seed in range(7)]
    ours, theirs, engine = both("llama", torch.float32, jobs, rows=3)
    assert engine.totals.replayed_steps
    for result, expected in zip(ours, theirs, strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_every_architecture_can_be_recorded(kind: str) -> None:
    jobs = [job(seed, 20 + 9 * seed, "tova", Generation(12)) for seed in range(4)]
    ours, theirs, engine = both(kind, torch.float32, jobs, rows=4)
    assert engine.totals.replayed_steps >= 6
    for result, expected in zip(ours, theirs, strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("name", PRESSES)
def test_graphs_of_flash_kernels(name: str) -> None:
    """Rows that fill all slots, of one length: the same kernels run on the same shapes, so the tokens are the same."""
    jobs = [job(seed, 150, name, Generation(20)) for seed in range(4)]
    ours, theirs, engine = both("llama", torch.bfloat16, jobs, rows=4)
    assert engine.totals.replayed_steps and engine.backend.name == "varlen"
    for result, expected in zip(ours, theirs, strict=True):
        assert_same(result, expected)


def test_rows_that_end_early() -> None:
    jobs = [job(seed, 30 + seed, "tova", Generation(6 + seed)) for seed in range(6)]
    eos = {result.tokens[4] for result in both("llama", torch.float32, jobs, rows=3)[1]}
    ours, theirs, engine = both("llama", torch.float32, jobs, rows=3, eos=eos)
    assert engine.totals.replayed_steps
    for result, expected in zip(ours, theirs, strict=True):
        assert_same(result, expected)


def test_rows_that_draw() -> None:
    wants = [Generation(8, sampling=Sampling(do_sample=True, seed=seed)) for seed in range(3)]
    jobs = [job(seed, 30 + seed, "tova", want) for seed, want in enumerate([*wants, Generation(8, entropy=True)])]
    ours, theirs, engine = both("llama", torch.float32, jobs, rows=4)
    assert engine.totals.replayed_steps
    for result, expected in zip(ours, theirs, strict=True):
        assert result.tokens == expected.tokens
