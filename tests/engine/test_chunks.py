"""Prefill in chunks: the numbers of one piece, with a layer complete before any chunk leaves the next."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_runs import assert_same, attached, check, prompt, run
from hypothesis import given, settings
from hypothesis import strategies as st
from press_table import policy

from fairkv_eval.engine import prefixes
from fairkv_eval.engine.chunks import lockstep
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.phases import Prefill
from fairkv_eval.engine.scheduler import Scheduler
from fairkv_eval.errors import RequestError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press
from fairkv_eval.prompts.tokens import Prompt


@pytest.fixture(scope="module")
def llama():
    return attached()


class Written:
    """A phase that writes down who attended."""

    def __init__(self) -> None:
        self.order: list[tuple[int, int]] = []

    def attend(self, chunk: int, layer: int, *_: Any) -> tuple[int, int]:
        self.order.append((chunk, layer))
        return chunk, layer


def test_chunks_attend_layer_by_layer_in_order() -> None:
    phase = Written()

    def forward(chunk: int) -> Any:
        return lambda kv: [kv.attend(chunk, layer, None, None) for layer in range(3)]

    lockstep(phase, [forward(chunk) for chunk in range(4)])
    assert phase.order == [(chunk, layer) for layer in range(3) for chunk in range(4)]


def test_an_error_ends_all_chunks() -> None:
    phase, ended = Written(), []

    def forward(chunk: int) -> Any:
        def run(kv: Any) -> None:
            try:
                for layer in range(3):
                    kv.attend(chunk, layer, None, None)
                    if (chunk, layer) == (1, 1):
                        raise ValueError("chunk 1 fails in layer 1")
            finally:
                ended.append(chunk)

        return run

    with pytest.raises(ValueError, match="chunk 1 fails in layer 1"):
        lockstep(phase, [forward(chunk) for chunk in range(3)])
    assert sorted(ended) == [0, 1, 2]
    assert phase.order == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1)]


OBSERVING = ["snapkv small", "h2o", "adakv small", "expected_attention small"]  # the queries


# Chunks meet a press only through its layer: of each way to read one, and of each kind of budget.
@pytest.mark.parametrize("name", [*OBSERVING, "keydiff", "lagkv small", "pyramidkv small", "kvzip"])
def test_every_press_in_chunks_equals_the_slow_reference(llama, name: str) -> None:
    jobs = [Job(prompt(20, 44, 40, 15), policy(name, 0.6, fair), Generation(4), "") for fair in (0.0, 1.0)]
    check(llama, jobs, max_prefill_tokens=9)


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma2"])
def test_windows_and_bounded_logits_in_chunks(kind: str) -> None:
    jobs = [Job(prompt(21, 44, 40, 15), policy("tova", 0.5), Generation(4), "")]
    jobs += [Job(prompt(22, 34, 30, 15), policy("h2o", 0.5), LogLikelihood((4, 9)), "")]
    check(attached(kind), jobs, max_prefill_tokens=7)


@given(
    size=st.integers(3, 40),
    shared=st.integers(0, 20),
    lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4),
    names=st.lists(
        st.sampled_from([*OBSERVING, "none"]),
        min_size=4,
        max_size=4,
    ),
)
@settings(max_examples=30)
def test_chunks_and_shared_prefixes_give_the_numbers_of_one_piece(llama, size, shared, lengths, names) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "SHORTEST", 3)
        draw = torch.Generator().manual_seed(shared)
        begin = torch.randint(0, 256, (shared,), generator=draw).tolist()
        jobs = []
        for i, n in enumerate(lengths):
            context = [*begin, *torch.randint(0, 256, (n,), generator=draw).tolist()]
            own = Policy() if names[i] == "none" else policy(names[i], 0.5)
            jobs.append(Job(Prompt((*context, 1, 2), len(context)), own, LogLikelihood((3, 4)), f"doc {i}"))
        whole, _ = run(llama, jobs)
        # A small limit also splits the group; one pass over all of it shows the chunks of a tree.
        parts, _ = run(llama, jobs, max_prefill_tokens=size)
        for one, other in zip(whole, parts, strict=True):
            assert_same(other, one)


def test_a_tree_of_contexts_in_chunks(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several contexts in one packed pass that is cut anywhere, inside shared parts too."""
    monkeypatch.setattr(prefixes, "SHORTEST", 3)
    begin = list(range(20))
    jobs = [
        Job(Prompt((*begin, *range(100, 104 + 5 * i), 7), 24 + 5 * i), policy("h2o", 0.5), LogLikelihood((3, 4)), "")
        for i in range(3)
    ]
    whole, _ = run(llama, jobs)
    forward = Prefill.attend
    seen: list[int] = []

    def counted(self, q, *args):
        seen.append(q.shape[2])
        return forward(self, q, *args)

    monkeypatch.setattr(Prefill, "attend", counted)

    def unlimited(self, jobs, watcher=None):
        return Scheduler(jobs, self.windows, 1 << 30, watcher)

    monkeypatch.setattr(Engine, "scheduler", unlimited)
    for size in (5, 11, 17):
        seen.clear()
        parts, _ = run(llama, jobs, max_prefill_tokens=size)
        assert max(seen) <= size < sum(seen) // 3
        for one, other in zip(whole, parts, strict=True):
            assert other.logprob == pytest.approx(one.logprob, abs=1e-4)


def test_a_press_that_fails_in_a_chunk_names_the_document(llama) -> None:
    def broken(layer, span):
        raise ZeroDivisionError("oh")

    bad = Policy(Press("broken", broken), ratio=0.5)
    with pytest.raises(RequestError, match="task t, doc 7: evicting layer 0 failed: oh"):
        run(llama, [Job(prompt(9, 44, 40), bad, Generation(2), "task t, doc 7")], max_prefill_tokens=9)
