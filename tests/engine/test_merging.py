"""Policies that merge, through the engine: against a cache in lists, whatever runs beside them."""

from __future__ import annotations

from typing import Any

import merged_answers
import pytest
from engine_runs import ask, assert_same, attached, prompt, run
from press_table import UNEVEN, policy

from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.sampling import Sampling
from fairkv_eval.eviction.policy import Policy


@pytest.fixture(scope="module")
def llama():
    return attached()


def check(model, jobs: list[Job], **kwargs: Any) -> None:
    results, _ = run(model, jobs, **kwargs)
    for job, result in zip(jobs, results, strict=True):
        merged_answers.check(model[0], job, result, ask)


def decoding(name: str, merge: str, budget: int = 12, every: int = 3, ratio: float = 0.5, **given: Any) -> Policy:
    return policy(name, ratio, merge=merge, decode_budget=budget, decode_every=every, **given)


@pytest.mark.parametrize("merge", ["similar", "d2o"])
@pytest.mark.parametrize("name", ["tova", "snapkv small", "chunkkv knorm", *UNEVEN])
def test_context_merges_equal_the_slow_reference(llama, merge: str, name: str) -> None:
    """Plain, partly and wholly fair, whitelisted, answers and scores."""
    p = prompt(1, 30, 24, 9)
    jobs = [
        Job(p, policy(name, 0.6, merge=merge), Generation(5), ""),
        Job(p, policy(name, 0.6, 1.0, merge=merge), Generation(5), ""),
        Job(p, policy(name, 0.6, 0.4, ("a",), merge=merge), LogLikelihood((5, 77, 130)), ""),
    ]
    check(llama, jobs)


@pytest.mark.parametrize("merge", ["similar", "d2o", "cam"])
@pytest.mark.parametrize("name", ["knorm", "streaming_llm", "tova", "h2o"])
def test_merges_while_decoding_equal_the_slow_reference(llama, merge: str, name: str) -> None:
    """Whole and evicted contexts, with a whitelist, under presses that collect attention and others.

    Of no prompt here knorm must choose between two keys of one token, whose norms in the first layer are the same: a
    processor's rounding would decide.
    """
    jobs = [
        Job(prompt(2), decoding(name, merge), Generation(14), ""),
        Job(prompt(10, 30, 22, 4), decoding(name, merge, 10, 4, 0.0, keep=("a",)), Generation(14), ""),
        Job(prompt(4, 12, 0, 0), decoding(name, merge, 6, 1), Generation(9), ""),
        Job(prompt(4), decoding(name, merge), LogLikelihood((5, 77)), ""),
    ]
    check(llama, jobs)


@pytest.mark.parametrize("merge", ["similar", "d2o", "cam"])
def test_keys_that_move_are_merged_as_well(llama, merge: str) -> None:
    jobs = [
        Job(prompt(5), policy("tova", 0.6, merge=merge, **given), Generation(13), "")
        for given in (
            {"positions": "contiguous", "decode_budget": 10, "decode_every": 2},
            {"positions": "contiguous", "decode_budget": 400},
        )
    ]
    check(llama, jobs)


@pytest.mark.parametrize("merge", ["similar", "d2o", "cam"])
def test_layers_that_slide_only_forget(merge: str) -> None:
    jobs = [
        Job(prompt(6), decoding("knorm", merge, 11, 3), Generation(14), ""),
        Job(prompt(7), decoding("h2o", merge, 7, 3), Generation(14), ""),
    ]
    check(attached("gemma2"), jobs)


@pytest.mark.parametrize("merge", ["similar", "d2o"])
def test_positions_that_are_learned_can_merge(merge: str) -> None:
    model = attached("gpt2")
    (result,), _ = run(model, [Job(prompt(8), policy("knorm", 0.5, merge=merge), Generation(4), "")])
    assert 0 < result.telemetry["merge_rate"] <= 1


@pytest.mark.parametrize("name", ["knorm", "kvzip", "adakv knorm"])
def test_nothing_evicted_is_the_plain_cache(llama, name: str) -> None:
    p = prompt(9)
    wants = [Generation(6), LogLikelihood((5, 77, 130))]
    jobs = [
        Job(p, own, want, "")
        for want in wants
        for own in (policy("none", 0.0), *(policy(name, 0.0, merge=merge) for merge in ("similar", "d2o")))
    ]
    results, _ = run(llama, jobs)
    for plain, *others in (results[:3], results[3:]):
        for other in others:
            assert_same(other, plain)


def test_bytes_pairs_and_rates_stay_and_answers_do_not(llama) -> None:
    p = prompt(10, 60, 50, 20)
    rules = ("none", "similar", "d2o")
    results, _ = run(
        llama, [Job(p, policy("knorm", 0.8, merge=rule), LogLikelihood((5, 77, 130)), "") for rule in rules]
    )
    plain, *merged = results
    for result in merged:
        figures = dict(result.telemetry)
        assert 0 < figures.pop("merge_rate") <= 1
        figures["choice_logprob"] = plain.telemetry["choice_logprob"]
        assert figures == plain.telemetry
        assert abs(result.logprob - plain.logprob) > 1e-3
    assert merged[0].telemetry["merge_rate"] > merged[1].telemetry["merge_rate"]


def test_neither_batch_nor_shared_prefill_changes_an_answer(llama) -> None:
    """Policies that merge differently from one context, and requests beside them, each alone and all at once."""
    jobs = [
        Job(prompt(seed, 40, 30, 11), own, Generation(16), "")
        for seed in (11, 12, 11)
        for own in (
            policy("knorm", 0.6),
            policy("knorm", 0.6, 1.0, merge="similar"),
            policy("knorm", 0.6, merge="similar"),
            policy("knorm", 0.6, merge="d2o"),
            policy("kvzip", 0.6, merge="d2o"),
            decoding("h2o", "cam"),
            decoding("knorm", "cam"),
            decoding("knorm", "d2o"),
        )
    ]
    together, _ = run(llama, jobs, rows=7)
    for job, result in zip(jobs, together, strict=True):
        (alone,), _ = run(llama, [job], rows=1)
        assert_same(alone, result)


def test_draws_depend_on_the_request(llama, monkeypatch) -> None:
    """The same request draws the same; another prompt, or another seed of the sampler, draws anew."""
    drawn: list[float] = []
    draw = merged_answers.torch.rand

    def spy(*args: Any, **kwargs: Any):
        result = draw(*args, **kwargs)
        drawn.append(float(result.flatten()[0]))
        return result

    monkeypatch.setattr(merged_answers.torch, "rand", spy)

    def of(seed: int, sampling: Sampling) -> list[float]:
        drawn.clear()
        run(llama, [Job(prompt(seed), decoding("knorm", "cam"), Generation(2, sampling=sampling), "")])
        return list(drawn)

    sampled = Sampling(do_sample=True, seed=3)
    first = of(13, Sampling())
    assert first and first == of(13, Sampling())
    assert first != of(14, Sampling()) and first != of(13, sampled) == of(13, sampled)
    assert len(set(first)) == len(first)  # and every layer its own
