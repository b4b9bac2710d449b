"""Quantised storage on a CUDA device against the same on the CPU."""

from __future__ import annotations

import engine_runs
import press_table
import pytest
import tiny
import torch

from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.storage.bits import KIVI, SCHEMES
from fairkv_eval.storage.pairs import Pairs, store
from fairkv_eval.storage.storage import Storage

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [8, 4, 3, 2, "k4v2"])
def test_what_comes_back_is_what_the_cpu_says(bits: int | str, scheme: str) -> None:
    """A value halfway between two codes may be rounded to either: one in a thousand at most, by one step."""
    storage = Storage.of(bits, scheme, group=32 if scheme == KIVI else 16, residual=5)
    keys, values = (torch.randn(2, 70, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    expected = store(storage, Pairs(keys, values), keys)
    held = store(storage, Pairs(keys.cuda(), values.cuda()), keys.cuda())
    assert (held.length, held.nbytes) == (expected.length, expected.nbytes)
    for found, exact in zip(held.plain(), expected.plain(), strict=True):
        apart = (found.cpu() - exact).abs()
        assert float((apart > 1e-3).float().mean()) <= 1e-3 or scheme == "rotated"
        assert float(apart.mean()) <= 1e-3


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [8, 4])
def test_rows_answer_as_on_the_cpu(bits: int, scheme: str) -> None:
    # kivi packs whole groups, which must lie within the context.
    room = {"kv_group": 8, "kv_residual": 4} if scheme == KIVI else {}
    policy = press_table.policy("knorm", kv_bits=bits, kv_scheme=scheme, **room)
    prompts = [engine_runs.prompt(seed, n=60 + 7 * seed, context=50 + seed, cut=20) for seed in range(4)]
    wants = [Generation(6), LogLikelihood((7, 8, 9)), Generation(5), LogLikelihood((1, 2))]
    jobs = [Job(prompt, policy, want, "tiny") for prompt, want in zip(prompts, wants, strict=True)]
    ours, exact = (
        dict(Engine(model, attach_checked(model), 3, ask=engine_runs.ask).run(jobs))
        for model in (tiny.model().cuda(), tiny.model())
    )
    for index, want in enumerate(wants):
        for name in ("kept_tokens", "kv_bytes_kept"):
            assert ours[index].telemetry[name] == exact[index].telemetry[name]
        if isinstance(want, LogLikelihood):
            assert ours[index].logprob == pytest.approx(exact[index].logprob, abs=0.05)
