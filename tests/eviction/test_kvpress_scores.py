"""What kvpress's main branch keeps of one context in two tiny models, against what our presses of the same names keep.

Where a definition differs on purpose, the published part is checked on its own.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kvpress_reference import Kept, KvpressReference, marked, overlap
from numpy_weights import KV_HEADS, numbered_model, numbered_tokens
from torch import Tensor

from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.eviction.quotas import choose
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.scores import criticalkv, keys, knorm, noncausal_attention

REFERENCE = KvpressReference("scores")
N = REFERENCE.n

# The least overlap where kvpress differs: it draws another sketch, counts padding as tokens of a last part block, or
# takes a large output as an argument against a pair whose score is negative.
OVERLAP = {"leverage-6": 0.2, "noncausal_attention-256": 0.5, "compactor-256": 0.7, "criticalkv-knorm": 0.3}

SETTINGS = REFERENCE.settings()


def of(*names: str) -> pytest.MarkDecorator:
    chosen = [setting for setting in SETTINGS if setting[1] in names]
    return pytest.mark.parametrize("kind, case, ratio", chosen)


def test_the_reference_is_whole_and_its_models_are_ours() -> None:
    REFERENCE.check_whole()
    presses = {case["press"] for case in REFERENCE.cases.values()}
    assert presses == {"leverage", "noncausal_attention", "compactor", "cur", "capkv", "criticalkv", "finch"}


@of(*REFERENCE.cases.keys() - OVERLAP.keys() - {"finch"})
def test_the_same_positions(kind: str, case: str, ratio: float) -> None:
    assert torch.equal(REFERENCE.ours(kind, case, ratio), REFERENCE.theirs(kind, case, ratio))


@of(*OVERLAP)
def test_the_overlap_of_the_others(kind: str, case: str, ratio: float) -> None:
    ours, theirs = REFERENCE.ours(kind, case, ratio), REFERENCE.theirs(kind, case, ratio)
    assert OVERLAP[case] <= overlap(ours, theirs) < 1


@of("leverage-6")
def test_leverage_with_the_sketch_of_kvpress(
    kind: str, case: str, ratio: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    sketches = [torch.randn(KV_HEADS, 16, 6, generator=generator) for _ in REFERENCE.run(kind).layers]

    def drawn(layer: Layer, vectors: Tensor, columns: int) -> Tensor:
        return vectors @ sketches[layer.index] * columns**-0.5

    monkeypatch.setattr(keys, "sketched", drawn)
    assert torch.equal(REFERENCE.ours(kind, case, ratio), REFERENCE.theirs(kind, case, ratio))


@of("noncausal_attention-256")
def test_noncausal_attention_with_the_padding_of_kvpress(kind: str, case: str, ratio: float) -> None:
    """kvpress fills the last block up with tokens whose queries and keys are 0. They get attention, and pay it to all
    keys of the block alike; here the last block is shorter."""
    budget = REFERENCE.policy(case, ratio).n_kept(N)
    for layer, theirs in zip(REFERENCE.run(kind).layers, REFERENCE.theirs(kind, case, ratio), strict=True):
        q, k, v = (torch.nn.functional.pad(states, (0, 0, 0, -N % 256)) for states in (layer.q, layer.k, layer.v))
        padded = noncausal_attention(replace(layer, q=q, k=k, v=v), Span(0, k.shape[1]), block=256)
        kept = choose(lambda span, scores=padded: scores[:, :N], [Span(0, N)], budget, 0, None)
        assert torch.equal(marked([kept], N), theirs)


@of("criticalkv-knorm")
def test_criticalkv_with_the_signs_of_kvpress(kind: str, case: str, ratio: float) -> None:
    budget = REFERENCE.policy(case, ratio).n_kept(N)
    whole = Span(0, N, budget=budget)
    for layer, theirs in zip(REFERENCE.run(kind).layers, REFERENCE.theirs(kind, case, ratio), strict=True):
        worth = knorm(layer, whole)
        top = float(-worth.min()) + 1  # shifted so, no score is negative, and the lowest is not taken off

        def critical(base: Tensor, layer: Layer = layer, epsilon: float = 1e-4) -> Tensor:
            return criticalkv(layer, whole, lambda _: base, first=0.5, epsilon=epsilon, pooled=False, safeguard=0.2)

        sizes = critical(worth + top, epsilon=1.0) - critical(worth + top, epsilon=0.0)
        published = (critical(worth + top, epsilon=0.0) + (1e-4 - top) * sizes).nan_to_num(nan=float("inf"))
        assert torch.equal(marked([choose(lambda _, s=published: s, [whole], budget, 0, None)], N), theirs)


@of("finch")
def test_finch_through_the_engine(kind: str, case: str, ratio: float) -> None:
    """kvpress evicts from context and question as from one text, and protects the question; so the budget of the
    context is what that leaves. Its keys, and ours, stay at their places here."""
    seed, question = REFERENCE.models[kind]["seed"], 20
    model, prompt = numbered_model(kind, seed), Prompt(tuple(numbered_tokens(N, seed)), N - question)
    theirs = REFERENCE.theirs(kind, case, ratio)
    assert theirs[..., -question:].all()
    kept = Kept()
    policy = Policy(load_press("finch"), budget=int(theirs[0, 0].sum()) - question)
    engine = Engine(model, attach_checked(model), ask=lambda text: [])
    engine.watch(Job(prompt, policy, Generation(1), case), kept)
    assert torch.equal(torch.stack(kept.by_layer), theirs[..., :-question])
