"""What KVzip replays, and what the keys of a context get from it, against a dense pass over context and replay."""

from __future__ import annotations

import math

import dense_reference
import pytest
import torch
from engine_runs import ask, assert_same, attached, check, prompt, run
from hypothesis import given
from hypothesis import strategies as st
from press_table import policy
from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.engine import replay
from fairkv_eval.engine.context import Context
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import layer as layer_module
from fairkv_eval.eviction.replays import finch, kvzip
from fairkv_eval.prompts.tokens import Prompt


@pytest.fixture(scope="module")
def llama():
    return attached()


@given(n=st.integers(1, 60), chunk=st.integers(1, 70))
def test_the_chunks_of_a_replay_are_the_context(n: int, chunk: int) -> None:
    """Each tail is a request and a chunk; after the first one the answer begins with the eight tokens before it."""
    context, texts = list(range(1000, 1000 + n)), []

    def request(text: str) -> list[int]:
        texts.append(text)
        return [texts.index(text)] * 3

    tails = kvzip(context, request, chunk=chunk)
    assert len(tails) == math.ceil(n / chunk)
    assert tails[0] == [0, 0, 0, *context[:chunk]]
    for i, tail in enumerate(tails[1:], 1):
        assert tail == [1, 1, 1, *context[max(0, i * chunk - 8) : i * chunk], *context[i * chunk : (i + 1) * chunk]]
    assert all("Repeat" in text for text in texts)


def received(attached_model, monkeypatch, jobs: list[Job], packed: int) -> dict[tuple, list[Tensor]]:
    """By context, the attention its keys got layer by layer, as the engine hands it to an eviction."""
    by_context = {}
    finish = Context.finish

    def spy(self, variant, replayed):
        by_context[self.tokens] = replayed
        return finish(self, variant, replayed)

    monkeypatch.setattr(Context, "finish", spy)
    run(attached_model, jobs, rows=len(jobs), max_prefill_tokens=packed)
    return by_context


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("packed", [1, 60, 4096])
@pytest.mark.parametrize("chunk", [5, 2048])
def test_attention_received_is_that_of_a_dense_pass(monkeypatch, kind: str, packed: int, chunk: int) -> None:
    """However the replays are packed, and in blocks of 16 queries. Layers that slide are not asked."""
    monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", 1)
    model, windows = attached(kind)
    sizes = [(24, 20, 7), (9, 1, 0), (18, 13, 4)]
    jobs = [
        Job(prompt(i, *size), policy("kvzip", chunk=chunk), LogLikelihood((1,)), "") for i, size in enumerate(sizes)
    ]
    found = received((model, windows), monkeypatch, jobs, packed)
    assert len(found) == 3
    for context, layers in found.items():
        expected = dense_reference.replayed(model, context, kvzip(context, ask, chunk=chunk))
        for window, mine, other in zip(windows, layers, expected, strict=True):
            if window is None:
                torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("packed", [1, 60, 4096])
def test_plus_divides_attention_by_the_length_of_the_hidden_state(monkeypatch, kind: str, packed: int) -> None:
    """However the replays are packed, also with those that do not."""
    monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", 1)
    model, windows = attached(kind)
    variants = [("plus", (24, 20, 7)), ("original", (22, 19, 0)), ("plus", (18, 13, 4))]
    jobs = [
        Job(prompt(i, *size), policy("kvzip", chunk=5, variant=variant), LogLikelihood((1,)), "")
        for i, (variant, size) in enumerate(variants)
    ]
    attention = received((model, windows), monkeypatch, jobs, packed)
    for job in jobs:
        context, by_length = job.context_tokens, dict(job.policy.parameters)["variant"] == "plus"
        expected = dense_reference.replayed(model, context, kvzip(context, ask, chunk=5), by_length)
        for mine, other in zip(attention[context], expected, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_nothing_watches_the_model_after_a_replay(llama) -> None:
    run(llama, [Job(prompt(1), policy("kvzip", variant="plus"), Generation(2), "")])
    assert not any(module._forward_pre_hooks for module in llama[0].modules())


def test_policies_on_one_context_share_its_prefill_and_its_replay(llama) -> None:
    """But for another chunk, which is another replay, and a press that needs none."""
    p = prompt(1)
    own = [policy("kvzip", 0.3), policy("kvzip", 0.6, 1.0), policy("kvzip", 0.6, keep=("a",)), policy("tova")]
    jobs = [Job(p, one, Generation(4), "") for one in own]
    _, engine = run(llama, jobs)
    assert (engine.totals.prefill_tokens, engine.totals.replay_tokens) == (18, 12 + 18)
    _, engine = run(llama, [*jobs, Job(p, policy("kvzip", chunk=10), LogLikelihood((1,)), "")], rows=5)
    assert (engine.totals.prefill_tokens, engine.totals.replay_tokens) == (18, 12 + 18 + 12 + 10 + 12 + 8 + 8)
    check(llama, jobs)


class TestQuestion:
    """finch runs what is asked after a context, so jobs on one context that ask otherwise keep other pairs of it."""

    @pytest.mark.parametrize("kind", ["llama", "gemma2"])
    @pytest.mark.parametrize("packed", [1, 4096])
    def test_attention_received_is_that_of_a_dense_pass(self, monkeypatch, kind: str, packed: int) -> None:
        """However the questions are packed, and in blocks of 16 queries; the last has 24 tokens."""
        monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", 1)
        model, windows = attached(kind)
        prompts = [prompt(0, 24, 20, 7), prompt(1, 5, 4, 0), prompt(2, 30, 6, 0)]
        jobs = [Job(p, policy("finch"), Generation(1), "") for p in prompts]
        found = received((model, windows), monkeypatch, jobs, packed)
        for job in jobs:
            expected = dense_reference.attention_of_question(model, job.context_tokens, job.question)
            for window, mine, other in zip(windows, found[job.context_tokens], expected, strict=True):
                if window is None:
                    torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)

    def test_an_even_share_counts_one(self) -> None:
        """Keys of which none stands out get 1 but for what the question's own tokens and rounding down take."""
        q, k = torch.zeros(4, 3, 8), torch.randn(2, 40, 8)
        found = replay.RECEIVED["mean"](q, k, Options(1.0))
        expected = sum(i / (i + 1) for i in (37, 38, 39)) / 3
        torch.testing.assert_close(found, torch.full((4, 37), expected))

    def test_jobs_that_ask_otherwise_share_the_prefill_alone(self, llama) -> None:
        p = prompt(1)
        other = Prompt((*p.tokens[:18], 9, 8, 7, 6), 18, p.segments)
        jobs = [Job(one, policy("finch", 0.6, fair), Generation(4), "") for one in (p, other) for fair in (0.0, 1.0)]
        jobs += [Job(p, policy("tova", 0.6), Generation(4), "")]
        _, engine = run(llama, jobs)
        assert (engine.totals.prefill_tokens, engine.totals.replay_tokens) == (18, 6 + 4)
        results = check(llama, jobs)
        plain, fair, plain_of_other, fair_of_other, _ = (dict(result.telemetry["segments"]) for result in results)
        assert fair == fair_of_other and plain != fair and plain_of_other != fair

    def test_what_is_scored_has_no_say(self, llama) -> None:
        """Choices of one question share its eviction: none evicts by the tokens it is scored on."""
        jobs = [Job(prompt(1), policy("finch", 0.6), LogLikelihood(c), "") for c in ((5,), (77, 130, 9), (200, 3))]
        assert {job.question for job in jobs} == {prompt(1).tokens[18:]}
        _, engine = run(llama, jobs)
        assert engine.totals.replay_tokens == 6
        check(llama, jobs)

    def test_beside_others_and_alone(self, llama) -> None:
        jobs = [
            Job(prompt(i, 24 - i, 18 - i, 7), policy("finch", 0.5, fair), Generation(5), "")
            for i, fair in enumerate((0.0, 0.5, 1.0))
        ]
        together, _ = run(llama, jobs, rows=3, max_prefill_tokens=20)
        for job, result in zip(jobs, together, strict=True):
            assert_same(result, run(llama, [job])[0][0])

    def test_nothing_asked_is_refused(self) -> None:
        with pytest.raises(UsageError, match="finch scores a context by what follows it, and nothing follows this one"):
            finch([1, 2, 3], ask, question=())


def test_nothing_is_replayed_where_nothing_is_evicted(llama) -> None:
    whole, nothing = (prompt(2), policy("kvzip", 0.0)), (prompt(3, 5, 0, 0), policy("kvzip"))
    _, engine = run(llama, [Job(*what, Generation(2), "") for what in (whole, nothing)])
    assert engine.totals.replay_tokens == 0


def test_the_uncompressed_pairs_are_let_go(llama, monkeypatch) -> None:
    contexts = []
    close = Context.close_replays

    def spy(self) -> None:
        contexts.append(self)
        close(self)

    monkeypatch.setattr(Context, "close_replays", spy)
    run(llama, [Job(prompt(4), policy("kvzip"), Generation(2), "")])
    (context,) = contexts
    assert context.full.nbytes == 0 and not context.held_back


@pytest.mark.parametrize("uniform", [True, False])
def test_layers_that_slide_have_no_part_in_the_budget(uniform: bool) -> None:
    """Layers 0 and 2 keep their windows of 9; what heads compete for is the budget of layer 1 alone."""
    model = attached("gemma2")
    job = Job(prompt(5, 24, 20), policy("kvzip", 0.5, uniform=uniform), Generation(6), "")
    (result,) = check(model, [job])
    assert result.telemetry["kept_tokens"] == pytest.approx(20 * (9 + 10 + 9) / (9 + 20 + 9))


def test_a_replay_needs_a_tokenizer(llama) -> None:
    with pytest.raises(UsageError, match="'kvzip' replays the context, which needs a tokenizer"):
        run(llama, [Job(prompt(6), policy("kvzip"), Generation(2), "")], ask=None)
