"""What part of each segment an eviction kept, against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairkv_eval.eviction.keep_rates import KeepRates
from fairkv_eval.prompts.segments import Segment

N = 20
# Two of one name count as one, one token has a rate too, and no segment holds all positions.
SEGMENTS = (Segment("a", 1, 4), Segment("b", 4, 5), Segment("a", 9, 14), Segment("c", 14, 18))


def positions(heads: int, m: int, generator: torch.Generator) -> Tensor:
    """m positions of N for each head, ascending: ``[heads, m]``."""
    return torch.rand(heads, N, generator=generator).argsort(-1)[:, :m].sort(-1).values


def rates_by_loops(segments: tuple[Segment, ...], heads: list[list[int]]) -> dict[str, float]:
    inside: dict[str, list[bool]] = {}
    for name, start, stop in segments:
        inside.setdefault(name, []).extend(p in head for head in heads for p in range(start, stop))
    return {name: sum(kept) / len(kept) for name, kept in inside.items()}


@pytest.mark.parametrize(
    "layers",
    [[[7], [7], [7]], [[19], [6], [1]], [[0, 20], [12, 8], [3, 3]], [[20], [5, 9]]],
    ids=["uniform", "by layer", "by head", "some by head"],
)
def test_rates_are_over_all_layers_and_heads(layers: list[list[int]]) -> None:
    """A layer is one number of pairs for both heads, or one per head."""
    generator = torch.Generator().manual_seed(0)
    rates, heads = KeepRates(SEGMENTS, N), []
    for counts in layers:
        index = [positions(2 // len(counts), m, generator) for m in counts]
        rates.count(index)
        heads += [head for part in index for head in part.tolist()]
    assert rates.by_segment() == pytest.approx(rates_by_loops(SEGMENTS, heads))


def test_before_any_layer_everything_is_kept() -> None:
    assert KeepRates(SEGMENTS, N).by_segment() == {"a": 1.0, "b": 1.0, "c": 1.0}


def test_no_segments_no_rates() -> None:
    rates = KeepRates((), N)
    rates.count([torch.arange(N)[None]])
    assert rates.by_segment() == {}


def test_an_empty_segment_does_not_stop_the_others() -> None:
    rates = KeepRates((Segment("a", 0, 8), Segment("empty", 8, 8), Segment("b", 8, 20)), N)
    rates.count([torch.tensor([[0, 1, 2, 8]])])
    assert rates.by_segment() == {"a": 3 / 8, "empty": 1.0, "b": 1 / 12}
