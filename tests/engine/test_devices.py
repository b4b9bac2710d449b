"""A model whose layers lie on several devices: what belongs to a layer stays on its device, and the answers are those
of one device."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from engine_runs import ask, attached, prompt
from press_table import SMALL, policy
from pretended_devices import pretended, spread

from fairkv_eval.engine import batch as batch_module
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.fidelity import Lead
from fairkv_eval.engine.jobs import Fidelity, Generation, Job, LogLikelihood
from fairkv_eval.engine.sampling import Sampling
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.model import FairKV
from fairkv_eval.storage.bits import SCHEMES

LAYERS = {"model.layers.0": 0, "model.layers.1": 1, "model.layers.2": 1}
DEVICES = {"model.embed_tokens": 0, "model.rotary_emb": 0, **LAYERS, "model.norm": 1, "lm_head": 1}
POLICIES = {
    "none": Policy(),
    **{name: policy(name, fair=0.5) for name in SMALL},
    **{f"{name} keep": policy(name, 0.2, 1.0, ("a",)) for name in ("tova", "kvzip", "adakv small")},
    **{
        f"{name} decode_budget": policy(name, decode_budget=14, decode_every=3, positions="contiguous")
        for name in ("tova", "h2o")
    },
    **{
        f"{name} merge={rule}": policy(name, 0.5, 1.0, ("a",), merge=rule)
        for name in ("tova", "adakv small")
        for rule in ("similar", "d2o")
    },
    **{
        f"decoding merge={rule}": policy("knorm", merge=rule, decode_budget=14, decode_every=3, positions="contiguous")
        for rule in ("similar", "d2o", "cam")
    },
    **{
        f"{name} kv_scheme={scheme}": policy(name, kv_bits=4, kv_scheme=scheme, kv_group=8, kv_residual=5)
        for name in ("tova", "adakv small")
        for scheme in SCHEMES
    },
}


@pytest.fixture(scope="module")
def one() -> tuple:
    return attached()


@pytest.fixture(scope="module")
def two() -> tuple:
    model = spread(tiny.model(), {name: f"meta:{index}" for name, index in DEVICES.items()})
    with pretended():
        return model, attach_checked(model)


def run(model: tuple, chosen: Policy) -> list:
    jobs = [Job(prompt(i), chosen, Generation(4), "doc") for i in range(2)]
    jobs.append(Job(prompt(1), chosen, LogLikelihood((5, 6, 7)), "doc"))
    return [result for _, result in sorted(Engine(*model, rows=2, ask=ask).run(jobs), key=lambda pair: pair[0])]


@pytest.mark.parametrize("name", POLICIES)
def test_layers_on_two_devices_answer_as_on_one(one: tuple, two: tuple, name: str) -> None:
    expected = run(one, POLICIES[name])
    with pretended():
        results = run(two, POLICIES[name])
    for ours, theirs in zip(results, expected, strict=True):
        assert (ours.tokens, ours.greedy, ours.telemetry) == (theirs.tokens, theirs.greedy, theirs.telemetry)
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


def test_draws_entropy_and_fidelity_answer_as_on_one(one: tuple, two: tuple) -> None:
    sampling = Sampling(do_sample=True, temperature=0.7, top_k=5, repetition_penalty=1.2, seed=3)

    def results(model: tuple) -> list:
        lead = Lead()
        wants = [Generation(4, sampling=sampling, entropy=True), Generation(4, entropy=True)]
        jobs = [Job(prompt(i), policy("tova"), want, "doc") for i, want in enumerate(wants)]
        jobs.append(Job(prompt(2), Policy(), Fidelity((5, 6, 7), lead=lead), "doc"))
        jobs.append(Job(prompt(2), policy("tova"), Fidelity((5, 6, 7), lead=lead), "doc"))
        return [result for _, result in sorted(Engine(*model, rows=2, ask=ask).run(jobs), key=lambda pair: pair[0])]

    expected = results(one)
    with pretended():
        found = results(two)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.tokens == theirs.tokens and ours.fidelity == pytest.approx(theirs.fidelity, abs=1e-4)
        for name in ("response_entropy", "keep_rate"):
            assert ours.telemetry.get(name) == pytest.approx(theirs.telemetry.get(name), abs=1e-4)


def test_buffers_lie_on_the_device_of_their_layer(two: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list = []

    class Watched(batch_module.RowCache):
        def add(self, layers) -> None:
            super().add(layers)
            seen.append([{t.device.index for b in layer for t in (b.keys, b.values)} for layer in self.layers])
            seen.append([{t.device.index for pairs in layer for t in pairs} for layer in layers])

    monkeypatch.setattr(batch_module, "RowCache", Watched)
    with pretended():
        run(two, policy("adakv small"))
    assert seen and all(devices == [{i} for i in LAYERS.values()] for devices in seen)


def test_mixed_devices_are_noticed() -> None:
    with pretended():
        a, b = (torch.arange(3, device=f"meta:{i}") for i in (0, 1))
        assert (a + 1).tolist() == [1, 2, 3] and a.to(b.device).device == b.device
        for mixed in (lambda: a + b, lambda: a[b], lambda: a + torch.arange(3)):
            with pytest.raises(RuntimeError, match="on tensors of"):
                mixed()


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("press", ["snapkv small", "pyramidkv small", "kvzip", "expected_attention small"])
def test_parallelize_answers_as_one_device(tmp_path: Path, press: str) -> None:
    tiny.model().save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    requests = [tiny.generation(f"A text to go on from, number {i}. " * 4, doc_id=i, max_gen_toks=8) for i in range(5)]
    settings = {"press": press, "ratio": 0.5, "dtype": "float32", "batch_size": 3}
    alone = FairKV(str(tmp_path), device="cuda:0", **settings)
    spread_out = FairKV(str(tmp_path), parallelize=True, device_map=DEVICES, **settings)
    assert {p.device.index for p in spread_out.model.parameters()} == {0, 1}
    assert spread_out.generate_until(requests) == alone.generate_until(requests)
