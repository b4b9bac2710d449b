"""Evicting a layer asks its device for nothing: a question waits until the device has done all that was issued.

Sweeps of many policies waited for most of their time on a GPU. Here a CPU's operations show where it would happen.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from press_table import policy
from torch.utils._python_dispatch import TorchDispatchMode

from fairkv_eval.eviction.keep_rates import KeepRates
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.must_stay import MustStay
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.prompts.segments import Segment

N = 48
SEGMENTS = [Segment("defense", 0, 20), Segment("directive", 20, N)]
# A number of a tensor, or sizes that depend on values. (`tolist` is no operation on a CPU, and is not seen.)
WAITS = ("_local_scalar_dense", "bincount", "nonzero", "is_nonzero", "masked_select", "unique")


class Questions(TorchDispatchMode):
    """Counts the operations for which the host would wait."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(operation).removeprefix("aten.").partition(".")[0]
        if name in WAITS or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.asked[name] += 1
        return operation(*args, **(kwargs or {}))


def layer(index: int) -> Layer:
    generator = torch.Generator().manual_seed(index)
    q, k, v = (torch.randn(heads, N, 8, generator=generator) for heads in (4, 2, 2))
    return Layer(q, k, v, 0.3, index=index, count=3)


@pytest.mark.parametrize("fair", [0.0, 1.0])
@pytest.mark.parametrize("keep", [(), ("4:9",)])
@pytest.mark.parametrize("name", ["streaming_llm", "snapkv", "h2o", "tova", "knorm", "pyramidkv"])
def test_a_layer_asks_nothing(name: str, keep: tuple[str, ...], fair: float) -> None:
    plan, rates = Plan(policy(name, fair=fair, keep=keep), SEGMENTS, N, range(3)), KeepRates(SEGMENTS, N)
    with Questions() as questions:
        for index in range(3):
            rates.count(plan.choose(layer(index)))
    assert not questions.asked


@pytest.mark.parametrize("name", ["tova", "knorm"])
def test_a_degree_asks_once_per_layer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quotas between plain and fair depend on what the plain press keeps: one copy to the host, whatever the heads."""
    plan, copies = Plan(policy(name, fair=0.5), SEGMENTS, N, range(3)), []
    original = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(tensor.shape) or original(tensor))
    plan.choose(layer(0))
    assert copies == [(2, N)]


def test_the_ways_to_ask_are_seen() -> None:
    numbers = torch.arange(4)
    with Questions() as questions:
        for question in (
            lambda: int(numbers.sum()),
            lambda: bool(numbers.any()),
            lambda: numbers.bincount(),
            lambda: numbers[numbers > 1],
            lambda: numbers.nonzero(),
        ):
            before = questions.asked.total()
            question()
            assert questions.asked.total() > before


def test_whitelisted_positions_are_counted_by_the_host() -> None:
    must_stay = MustStay.of([(2, 5), (4, 9)], 12)
    assert must_stay is not None
    with Questions() as questions:
        counts = [must_stay.within(*span) for span in ((0, 12), (0, 2), (2, 9), (3, 4), (8, 12), (5, 5))]
    assert counts == [7, 0, 7, 1, 1, 0] and not questions.asked
    assert must_stay.on(torch.device("cpu")).tolist() == [2 <= position < 9 for position in range(12)]
    assert MustStay.of([], 12) is None
