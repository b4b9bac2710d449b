"""How budgets are divided over layers and heads: pyramids, and heads that compete for the pairs of a pool."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import kept_by_loops
import pytest
import torch
from exact_shares import largest_remainder_exactly
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.budgets import (
    EVEN,
    Division,
    adakv,
    by_uncertainty,
    composites_compete,
    even,
    heads_compete,
    kvcompose,
    kvzip,
    pyramid,
    pyramidkv,
    simlayerkv,
    threshold,
    uncertainty,
)
from fairkv_eval.eviction.layer_ratios import layer_ratios
from fairkv_eval.eviction.quotas import pooled


def arithmetic(mean: int, layers: int, beta: float) -> list[Fraction]:
    """METHODS: top = k_total / (β·m), bottom = 2·k_total / m − top, and equal steps from bottom to top."""
    k_total = Fraction(mean * layers)
    top = k_total / (Fraction(beta) * layers)
    bottom = 2 * k_total / layers - top
    return [bottom - (bottom - top) * i / (layers - 1) for i in range(layers)]


def moved_exactly(wanted: list[Fraction], low: int, high: int, total: int) -> list[Fraction]:
    """All moved by one amount so that, held within the bounds, they make the total."""

    def held(by: Fraction) -> list[Fraction]:
        return [min(max(x + by, Fraction(low)), Fraction(high)) for x in wanted]

    # Between two of these amounts the same layers are at a bound, and the sum grows in a straight line.
    corners = sorted({bound - x for x in wanted for bound in (low, high)})
    for a, b in pairwise(corners):
        if sum(held(a)) <= total <= sum(held(b)):
            rise = sum(held(b)) - sum(held(a))
            return held(a + (b - a) * (total - sum(held(a))) / rise if rise else a)
    return held(corners[0] if total == len(wanted) * low else corners[-1])


@st.composite
def pyramids(draw: st.DrawFn) -> dict:
    n = draw(st.sampled_from([1, 2, 5, 17, 300, 4096]) | st.integers(1, 5000), label="n")
    mean = draw(st.integers(1, n), label="mean")
    return {
        "n": n,
        "mean": mean,
        "layers": draw(st.sampled_from([1, 2, 3, 28, 32]), label="layers"),
        "floor": draw(st.integers(0, mean), label="floor"),
        "window": draw(st.sampled_from([1, 8, 64, 9999]), label="window"),
        "beta": draw(st.sampled_from([1, 1.5, 2, 20, 1000]), label="beta"),
    }


class TestPyramid:
    @given(pyramids())
    @settings(max_examples=300)
    @example({"n": 100, "mean": 90, "layers": 3, "floor": 0, "window": 1, "beta": 20})  # the first layers are full
    @example({"n": 100, "mean": 65, "layers": 3, "floor": 0, "window": 64, "beta": 20})  # the last are at the window
    @example({"n": 7, "mean": 7, "layers": 32, "floor": 7, "window": 1, "beta": 20})
    @example({"n": 5000, "mean": 1, "layers": 32, "floor": 0, "window": 64, "beta": 20})
    def test_keeps_its_total_and_bounds_and_never_rises(self, case: dict) -> None:
        budgets = pyramid(**case)
        mean, layers = case["mean"], case["layers"]
        assert all(isinstance(budget, int) for budget in budgets) and len(budgets) == layers
        assert sum(budgets) == mean * layers
        assert all(min(mean, max(case["window"], case["floor"], 1)) <= budget <= case["n"] for budget in budgets)
        assert budgets == sorted(budgets, reverse=True)

    @given(st.integers(1, 500), st.integers(2, 40), st.sampled_from([1, 2, 5, 20]))
    def test_is_the_formula_where_no_bound_is_met(self, mean: int, layers: int, beta: int) -> None:
        exact = arithmetic(mean, layers, beta)
        budgets = pyramid(10**6, mean, layers, 0, window=1, beta=beta)
        if exact[-1] >= 1:
            assert all(abs(budget - wanted) < 1 for budget, wanted in zip(budgets, exact, strict=True))

    @given(pyramids())
    @settings(max_examples=200)
    def test_is_the_formula_moved_within_its_bounds(self, case: dict) -> None:
        mean, layers = case["mean"], case["layers"]
        wanted = arithmetic(mean, layers, case["beta"]) if layers > 1 else [Fraction(mean)]
        low = min(mean, max(case["window"], case["floor"], 1))
        exact = moved_exactly(wanted, low, case["n"], mean * layers)
        assert pyramid(**case) == largest_remainder_exactly(exact, mean * layers)

    @pytest.mark.parametrize(
        "n, layers, window, floor, budgets",
        [
            (1000, 3, 1, 0, [195, 100, 5]),
            (1000, 5, 1, 0, [195, 147, 100, 53, 5]),  # halves go to the later layer
            (150, 3, 1, 0, [150, 122, 28]),  # 45 pairs that the first has no room for
            (1000, 3, 40, 0, [177, 83, 40]),  # 35 pairs that the window asks for
            (1000, 3, 40, 60, [167, 73, 60]),  # a whitelist that is longer than the window
            (150, 4, 40, 0, [150, 137, 73, 40]),
            (1000, 3, 100, 0, [100, 100, 100]),
            (1000, 3, 9999, 0, [100, 100, 100]),  # a window the budget has no room for
            (100, 3, 1, 0, [100, 100, 100]),
        ],
    )
    def test_a_mean_of_100(self, n: int, layers: int, window: int, floor: int, budgets: list[int]) -> None:
        assert pyramid(n, 100, layers, floor, window=window, beta=20) == budgets

    def test_one_layer_has_the_mean(self) -> None:
        assert pyramid(50, 20, 1, 0, window=4, beta=20) == [20]
        assert pyramid(50, 20, 0, 0, window=4, beta=20) == []  # all layers slide

    def test_beta_one_is_even(self) -> None:
        assert pyramid(50, 20, 4, 0, window=4, beta=1) == even(50, 20, 4, 0) == [20] * 4


def divide_by_loops(worth: list[list[float]], total: int, floor: int) -> list[int]:
    """One pair at a time to the lane whose next is worth most; among equals to the one that has fewer."""
    counts = [floor] * len(worth)
    while sum(counts) < total:
        open_lanes = [lane for lane, count in enumerate(counts) if count < len(worth[lane])]
        best = max(open_lanes, key=lambda lane: (worth[lane][counts[lane]], -counts[lane], -lane))
        counts[best] += 1
    return counts


@st.composite
def pools(draw: st.DrawFn) -> tuple[Tensor, int, int]:
    lanes, n = draw(st.integers(1, 5), label="lanes"), draw(st.integers(1, 12), label="n")
    values = st.sampled_from([float("-inf"), -1.0, 0.0, 0.25, 3.0, float("inf")])  # few, so that many tie
    worth = [sorted(draw(st.lists(values, min_size=n, max_size=n)), reverse=True) for _ in range(lanes)]
    floor = draw(st.integers(0, n), label="floor")
    return torch.tensor(worth), draw(st.integers(lanes * floor, lanes * n), label="total"), floor


class TestPooled:
    @given(pools())
    @settings(max_examples=300)
    def test_equals_a_plain_loop(self, pool: tuple[Tensor, int, int]) -> None:
        worth, total, floor = pool
        assert pooled(worth, total, floor) == divide_by_loops(worth.tolist(), total, floor)

    def test_the_better_head_gets_more_and_the_other_its_safeguard(self) -> None:
        worth = torch.tensor([[9.0, 8.0, 7.0, 6.0], [1.0, 1.0, 1.0, 1.0]])
        assert [pooled(worth, 4, floor) for floor in (0, 1, 2)] == [[4, 0], [3, 1], [2, 2]]

    def test_equal_scores_are_served_in_turn(self) -> None:
        assert pooled(torch.zeros(3, 4), 7, 0) == [3, 2, 2]

    def test_what_each_head_protects_comes_first(self) -> None:
        worth = torch.tensor([[float("inf"), 0.1, 0.0], [float("inf"), 9.0, 8.0]])
        assert pooled(worth, 3, 0) == [1, 2]


@st.composite
def worths(draw: st.DrawFn) -> tuple[list[Tensor], int, int]:
    """Scores of the heads of some layers from the best down, the mean of a head, and what each must keep."""
    layers, heads, n = (draw(st.integers(1, most)) for most in (4, 3, 10))
    values = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 3.0, float("inf")])
    rows = [
        [sorted(draw(st.lists(values, min_size=n, max_size=n)), reverse=True) for _ in range(heads)]
        for _ in range(layers)
    ]
    mean = draw(st.integers(1, n))
    return [torch.tensor(layer) for layer in rows], mean, draw(st.integers(0, mean))


class TestOfTheModel:
    """Budgets made of what all layers score."""

    @given(worths())
    def test_totals_are_kept_and_no_head_goes_below_its_whitelist(self, drawn: tuple) -> None:
        worth, mean, floor = drawn
        n, heads = worth[0].shape[1], len(worth[0])
        for rule in (heads_compete, composites_compete, partial(by_uncertainty, share=0.9, bound=0.2)):
            budgets = rule(worth, mean, floor)
            assert [len(of_layer) for of_layer in budgets] == [heads] * len(worth)
            assert sum(map(sum, budgets)) == mean * heads * len(worth)
            assert all(floor <= budget <= n for of_layer in budgets for budget in of_layer)

    @given(worths(), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.sampled_from([0.0, 0.2, 1.0]))
    def test_equal_plain_loops(self, drawn: tuple, share: float, bound: float) -> None:
        worth, mean, floor = drawn
        lanes, n, heads = [layer.tolist() for layer in worth], worth[0].shape[1], len(worth[0])
        by_layer = kept_by_loops.zigzagkv(lanes, mean, n, floor, share, bound)
        assert by_uncertainty(worth, mean, floor, share=share, bound=bound) == [[b] * heads for b in by_layer]
        by_layer = kept_by_loops.kvcompose(lanes, mean, floor)
        assert composites_compete(worth, mean, floor) == [[b] * heads for b in by_layer]

    def test_a_layer_is_as_uncertain_as_its_scores_are_spread(self) -> None:
        spread, sharp = torch.ones(2, 10), torch.tensor([[9.0, *[0.1] * 9], [99.0, *[0.01] * 9]])
        assert (uncertainty(spread, 0.9), uncertainty(sharp, 0.9)) == (9, 1)
        assert uncertainty(torch.cat([spread[:1], sharp[:1]]), 0.9) == 5  # the mean of the heads
        assert uncertainty(torch.full((2, 10), -1.0), 0.9) == 1
        assert by_uncertainty([spread, sharp], 5, 0, share=0.9, bound=0.2) == [[8, 8], [2, 2]]
        assert by_uncertainty([spread, sharp], 5, 4, share=0.9, bound=0.2) == [[6, 6], [4, 4]]  # a whitelist of 4
        assert by_uncertainty([spread, sharp], 5, 0, share=0.9, bound=1) == [[5, 5], [5, 5]]

    def test_the_first_layer_has_no_less_than_any(self) -> None:
        low, high = torch.tensor([[0.2, 0.1, 0.0]]), torch.tensor([[0.9, 0.8, 0.7]])
        assert composites_compete([low, high], 2, 0) == [[2], [2]]
        assert heads_compete([low, high], 2, 0) == [[1], [3]]


class TestLayerRatios:
    def test_each_layer_keeps_what_its_ratio_leaves(self) -> None:
        division = layer_ratios(EVEN, by_layer="0.5+0+0.9", by_layer_file="")
        assert division.layers(100, 53, 3, 0) == [50, 100, 10]
        assert division.own is not None and division.own(100) == 54 and not division.uniform

    @pytest.mark.parametrize("text", ["0.5 0 0.9", "0.5,0,0.9\n", "[0.5, 0, 0.9]", "0.5\n0\n0.9\n"])
    def test_a_file_says_the_same(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "ratios.txt"
        path.write_text(text)
        assert layer_ratios(EVEN, by_layer="", by_layer_file=str(path)).layers(100, 53, 3, 0) == [50, 100, 10]

    @pytest.mark.parametrize("text", ["", "0.5 1", "0.5 -0.1", "half", "nan", "{}"])
    def test_a_file_that_says_something_else_is_named(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "ratios.txt"
        path.write_text(text)
        with pytest.raises(UsageError, match=r"layer_ratios: '.*' of .*ratios.txt is not a ratio; it takes numbers"):
            layer_ratios(EVEN, by_layer="", by_layer_file=str(path))

    @pytest.mark.parametrize(
        "given", [{"by_layer": "", "by_layer_file": ""}, {"by_layer": "0.5", "by_layer_file": "a"}]
    )
    def test_one_source_and_no_more(self, given: dict[str, str]) -> None:
        with pytest.raises(UsageError, match="either by_layer=a"):
            layer_ratios(EVEN, **given)

    def test_another_number_of_layers_is_named_with_the_right_one(self) -> None:
        with pytest.raises(UsageError, match="layer_ratios has 2 ratios, and the model 3 layers that evict"):
            layer_ratios(EVEN, by_layer="0.5+0.5", by_layer_file="").layers(10, 5, 3, 0)


class TestDivisions:
    """What the functions that a press file names make of the division of what they wrap."""

    def test_pyramidkv_divides_over_layers_alone(self) -> None:
        division = pyramidkv(EVEN, window=40, beta=20)
        assert division.layers(1000, 100, 3, 60) == pyramid(1000, 100, 3, 60, window=40, beta=20)
        assert not division.pooled and not division.safeguard and not division.uniform

    def test_adakv_pools_each_layer(self) -> None:
        division = adakv(EVEN, safeguard=0.3)
        assert division == Division(even, "layer", 0.3) and not division.uniform

    def test_adakv_keeps_the_layers_of_what_it_wraps(self) -> None:
        base = pyramidkv(EVEN, window=40, beta=20)
        division = adakv(base, safeguard=0.3)
        assert division.layers is base.layers and (division.pooled, division.safeguard) == ("layer", 0.3)

    @pytest.mark.parametrize("uniform, pool", [(False, "model"), (True, "layer")])
    def test_kvzip_pools_the_model_or_each_layer(self, uniform: bool, pool: str) -> None:
        division = kvzip(EVEN, uniform=uniform)
        assert division.pooled == pool and division.safeguard == 0 and not division.uniform
        assert division.layers(100, 10, 3, 0) == [10] * 3

    @pytest.mark.parametrize("structured, model", [(True, composites_compete), (False, heads_compete)])
    def test_kvcompose_pools_the_model(self, structured: bool, model: Any) -> None:
        division = kvcompose(EVEN, structured=structured)
        assert (division.pooled, division.model, division.own) == ("model", model, None) and not division.uniform

    def test_scores_decide_for_these(self) -> None:
        for division, least in ((simlayerkv(EVEN), 0.0), (threshold(EVEN, threshold=-2.5), -2.5)):
            assert division.least == least and division.own is not None and division.own(17) == 17
            assert not division.uniform

    def test_an_even_division_is_uniform(self) -> None:
        assert EVEN.uniform and EVEN.layers(100, 10, 3, 5) == [10] * 3
