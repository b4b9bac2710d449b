"""Rules read the cache and never write into it: a run stops if one does, and the error names the press."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press

WRITERS: dict[str, Callable[[Layer], object]] = {
    "keys": lambda layer: layer.k.mul_(2),
    "a view": lambda layer: layer.k[:, :3].zero_(),
    "what float() leaves as it is": lambda layer: layer.v.float().neg_(),
    "an index": lambda layer: layer.k.__setitem__((0, 0), 5.0),
    "queries": lambda layer: layer.q.copy_(layer.q * 0),
}


def layer_of_an_engine() -> Layer:
    with torch.inference_mode():
        return Layer(torch.randn(4, 9, 8), torch.randn(2, 9, 8), torch.randn(2, 9, 8), 1.0)


@pytest.mark.parametrize("written", WRITERS)
def test_a_rule_that_writes_is_refused_by_name(written: str) -> None:
    def score(layer: Layer, span: Span) -> Tensor:
        WRITERS[written](layer)
        return layer.k.norm(dim=-1)

    layer = layer_of_an_engine()
    with (
        torch.inference_mode(),
        pytest.raises(UsageError, match="press 'mine' writes into the queries, keys or values"),
    ):
        Policy(Press("mine", score), ratio=0.5).scorer(layer)(Span(0, 9))


def test_a_rule_writes_into_tensors_of_its_own() -> None:
    def score(layer: Layer, span: Span) -> Tensor:
        return layer.k.norm(dim=-1).neg_().add_(layer.v.sum(-1))

    layer = layer_of_an_engine()
    with torch.inference_mode():
        scores = Policy(Press("mine", score), ratio=0.5).scorer(layer)(Span(0, 9))
    assert torch.equal(scores, layer.v.sum(-1) - layer.k.norm(dim=-1))
