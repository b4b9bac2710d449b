"""What kvpress's main branch keeps of one context in two tiny models if budgets differ by layer and head or follow from
the text, against what our presses keep: the same positions, layer by layer and head by head."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from kvpress_reference import KvpressReference, marked
from layer_recorder import record
from numpy_weights import LAYERS, numbered_model, numbered_tokens
from torch import Tensor

from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.plan import Plan

REFERENCE = KvpressReference("budgets")
N = REFERENCE.n
SETTINGS = REFERENCE.settings()


def of(press: str, *others: str) -> pytest.MarkDecorator:
    chosen = [setting for setting in SETTINGS if REFERENCE.cases[setting[1]]["press"] in (press, *others)]
    return pytest.mark.parametrize("kind, case, ratio", chosen)


@cache
def read_twice(kind: str) -> list[Layer]:
    """The layers of a context with what its keys get if it is read again."""
    seed = REFERENCE.models[kind]["seed"]
    twice = record(numbered_model(kind, seed), numbered_tokens(N, seed) * 2)
    received = [layer.attention(N, 2 * N)[:, :, :N].amax(1) for layer in twice]
    layers = REFERENCE.run(kind).layers
    return [replace(layer, replayed_by_query_head=most) for layer, most in zip(layers, received, strict=True)]


def kept(kind: str, case: str, ratio: float) -> Tensor:
    """What our press keeps: boolean ``[layers, kv_heads, n]``."""
    policy = REFERENCE.policy(case, ratio)
    layers = read_twice(kind) if policy.press and policy.press.replay else REFERENCE.run(kind).layers
    plan = Plan(policy, (), N, range(LAYERS))
    plan.divide(layers)
    return torch.stack([marked(plan.choose(layer), N) for layer in layers])


def test_the_reference_is_whole_and_its_models_are_ours() -> None:
    REFERENCE.check_whole()
    presses = {case["press"] for case in REFERENCE.cases.values()}
    assert presses == {"simlayerkv", "threshold", "layer_ratios", "blockwise", "kvcompose"}


@of("simlayerkv", "threshold", "layer_ratios", "blockwise", "kvcompose")
def test_the_same_positions(kind: str, case: str, ratio: float) -> None:
    assert torch.equal(kept(kind, case, ratio), REFERENCE.theirs(kind, case, ratio))


@of("simlayerkv", "threshold", "kvcompose")
def test_budgets_are_not_even(kind: str, case: str, ratio: float) -> None:
    if (kind, case) != ("qwen3", "simlayerkv-8"):  # all of its layers are lazy
        assert len(set(REFERENCE.theirs(kind, case, ratio).sum(-1).flatten().tolist())) > 1
