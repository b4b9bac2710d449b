"""What one policy keeps of one context: whitelist, budgets, layers that do not evict, and the rates it reports."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairkv_eval.attention.output_projection import OutputProjection
from fairkv_eval.engine.context import Context, Variant
from fairkv_eval.errors import RequestError, UsageError
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.whitelist import parse_keep

N, KV_HEADS = 20, 2
SEGMENTS = (Segment("a", 0, 8), Segment("b", 8, 18))
MARKS = (Segment("special", 0, 1), Segment("special", 9, 10), Segment("text:two words", 3, 5))


def policy(name: str = "knorm", base: str | None = None, parameters: dict | None = None, **settings: Any) -> Policy:
    press = load_press(name, base)
    assert press is not None
    return Policy(press, press.configure(parameters or {}), **settings)


def make_layer(n: int = N, index: int = 0, count: int = 3, uneven: bool = True) -> Layer:
    """A random layer. ``uneven``: the second head's keys are short and most attended to, so that it wins any pool."""
    generator = torch.Generator().manual_seed(100 * index + n)
    q, k, v = (torch.randn(KV_HEADS, n, 4, generator=generator) for _ in range(3))
    replayed = torch.rand(KV_HEADS, n, generator=generator) / 2
    if uneven:
        k[1] /= 100
        replayed[1] += 0.5
    return Layer(q, k, v, 0.5, index, count, replayed=replayed)


def rows(index: list[Tensor]) -> list[list[int]]:
    """Kept positions, head by head."""
    return [row for positions in index for row in positions.tolist()]


class TestKeep:
    @pytest.mark.parametrize(
        "entries, listed",
        [
            ("a", set(range(8))),
            ("special", {0, 9}),
            ("text:two words", {3, 4}),
            ("5", {5}),
            ("17:", {17, 18, 19}),
            (":3", {0, 1, 2}),
            ("15:99", {15, 16, 17, 18, 19}),
            ("a+special+text:two words+12:14", {*range(8), 9, 12, 13}),
        ],
    )
    @pytest.mark.parametrize("fair", [0.0, 0.5, 1.0])
    def test_what_is_named_is_in_every_head(self, entries: str, listed: set[int], fair: float) -> None:
        # Scores that would keep none of it: the longest keys go first.
        layer = make_layer(uneven=False)
        layer.k[:, sorted(listed)] *= 100
        plan = Plan(policy(ratio=0.4, fair=fair, keep=parse_keep(entries)), SEGMENTS, N, [0], MARKS)
        kept = rows(plan.choose(layer))
        assert all(listed <= set(row) and len(row) == 12 for row in kept)
        without = rows(Plan(policy(ratio=0.4), SEGMENTS, N, [0], MARKS).choose(layer))
        assert all(not listed <= set(row) for row in without)

    @pytest.mark.parametrize("name, base", [("adakv", "knorm"), ("kvzip", None)])
    @pytest.mark.parametrize("fair", [0.0, 0.5, 1.0])
    def test_also_where_heads_compete(self, name: str, base: str | None, fair: float) -> None:
        plan = Plan(policy(name, base, ratio=0.5, fair=fair, keep=("text:two words", "11:14")), SEGMENTS, N, [0], MARKS)
        layer = make_layer()
        plan.divide([layer])
        kept = rows(plan.choose(layer))
        assert all({3, 4, 11, 12, 13} <= set(row) for row in kept)
        assert [len(row) for row in kept] == [5, 15]  # the weaker head is left with the whitelist

    def test_positions_the_context_does_not_have_are_an_error_that_names_both_numbers(self) -> None:
        with pytest.raises(UsageError, match=r"500.* 20 tokens"):
            Plan(policy(ratio=0.5, keep=("500:600",)), SEGMENTS, N, [0])

    def test_more_than_the_budget_is_an_error_that_names_both(self) -> None:
        with pytest.raises(UsageError, match=r"keep holds 8 tokens.*of 20 tokens is 6: a ratio of at most 0\.6 would"):
            Plan(policy(ratio=0.7, keep=("a",)), SEGMENTS, N, [0])
        with pytest.raises(UsageError, match=r"keep holds 8 tokens.*of 20 tokens is 7"):
            Plan(policy(budget=7, keep=("a",)), SEGMENTS, N, [0])
        assert (
            Plan(policy(budget=8, keep=("a",)), SEGMENTS, N, [0]).choose(make_layer())[0].tolist() == [[*range(8)]] * 2
        )

    def test_overlaps_count_once(self) -> None:
        plan = Plan(policy(budget=8, keep=("a", "2:6", "special")), SEGMENTS, N, [0], MARKS[:1])
        assert rows(plan.choose(make_layer())) == [[*range(8)]] * 2

    def test_a_name_that_is_not_there_is_an_error(self) -> None:
        with pytest.raises(UsageError, match=r"unknown segment in keep 'c'\. .*Allowed: a, b, special"):
            Plan(policy(ratio=0.5, keep=("c",)), SEGMENTS, N, [0])

    def test_a_pyramid_has_room_for_it_in_every_layer(self) -> None:
        plan = Plan(policy("pyramidkv", None, {"window": 1}, ratio=0.4, keep=("a",)), SEGMENTS, N, [0, 1, 2])
        kept = [rows(plan.choose(make_layer(index=i))) for i in range(3)]
        assert [len(layer[0]) for layer in kept] == [20, 8, 8]
        assert all(set(range(8)) <= set(row) for layer in kept for row in layer)


PRESSES = [("knorm", None), ("pyramidkv", None), ("adakv", "knorm"), ("adakv", "pyramidkv"), ("kvzip", None)]


class TestBudget:
    @pytest.mark.parametrize("name, base", PRESSES)
    def test_a_context_no_longer_than_it_stays_whole(self, name: str, base: str | None) -> None:
        for n, fair in itertools.product((1, 2, 12), (0.0, 0.5, 1.0)):
            segments = (Segment("a", 0, n // 2), Segment("b", n // 2, n))
            plan = Plan(policy(name, base, budget=12, fair=fair), segments, n, range(3))
            layers = [make_layer(n, i) for i in range(3)]
            plan.divide(layers)
            assert [rows(plan.choose(layer)) for layer in layers] == [[[*range(n)]] * KV_HEADS] * 3

    @pytest.mark.parametrize("name, base", [("snapkv", None), ("pyramidkv", None), ("criticalkv", "snapkv")])
    @pytest.mark.parametrize("fair, kept", [(0.0, range(14, 20)), (1.0, [6, 7, 16, 17, 18, 19])])
    def test_a_window_that_fills_it_keeps_the_last_tokens(
        self, name: str, base: str | None, fair: float, kept: Sequence[int]
    ) -> None:
        """As presses/README.md says; fair, the last of each segment."""
        attention = nn.Module()
        attention.o_proj = nn.Linear(KV_HEADS * 4, 8)
        segments = (Segment("a", 0, 8), Segment("b", 8, N))
        plan = Plan(policy(name, base, {"window": 16}, budget=6, fair=fair), segments, N, range(3))
        layers = [replace(make_layer(index=i), output=OutputProjection(attention)) for i in range(3)]
        plan.divide(layers)
        assert [rows(plan.choose(layer)) for layer in layers] == [[[*kept]] * KV_HEADS] * 3

    @pytest.mark.parametrize("name, base", PRESSES)
    @pytest.mark.parametrize("fair", [0.0, 0.5, 1.0])
    def test_a_longer_one_keeps_so_many_on_average(self, name: str, base: str | None, fair: float) -> None:
        plan = Plan(policy(name, base, budget=12, fair=fair), SEGMENTS, N, range(3))
        layers = [make_layer(index=i) for i in range(3)]
        plan.divide(layers)
        counts = [[len(row) for row in rows(plan.choose(layer))] for layer in layers]
        assert sum(map(sum, counts)) == 12 * KV_HEADS * 3
        if name == "knorm":
            assert counts == [[12, 12]] * 3

    def test_is_what_the_ratio_to_it_is(self) -> None:
        kept = [
            Plan(policy(fair=0.5, **by), SEGMENTS, N, [0]).choose(make_layer())
            for by in ({"budget": 5}, {"ratio": 0.75})
        ]
        assert rows(kept[0]) == rows(kept[1])


class TestHeads:
    @pytest.mark.parametrize("name, base", [("knorm", None), ("pyramidkv", None), ("chunkkv", "knorm")])
    def test_of_equal_length_share_a_tensor(self, name: str, base: str | None) -> None:
        (index,) = Plan(policy(name, base, ratio=0.5), SEGMENTS, N, [0]).choose(make_layer())
        assert index.shape == (KV_HEADS, 10) and index.dtype == torch.int64

    def test_also_by_chance_or_by_safeguard(self) -> None:
        (index,) = Plan(policy("adakv", "knorm", {"safeguard": 1}, ratio=0.5), SEGMENTS, N, [0]).choose(make_layer())
        assert index.shape == (KV_HEADS, 10)
        same = make_layer()
        same.k[1] = same.k[0]  # equal scores are served in turn
        (index,) = Plan(policy("adakv", "knorm", ratio=0.5), SEGMENTS, N, [0]).choose(same)
        assert index.shape == (KV_HEADS, 10)

    @pytest.mark.parametrize("fair", [0.0, 0.5, 1.0])
    def test_of_other_lengths_have_one_each(self, fair: float) -> None:
        index = Plan(policy("adakv", "knorm", ratio=0.6, fair=fair), SEGMENTS, N, [0]).choose(make_layer())
        assert [tuple(row.shape) for row in index] == [(1, 1), (1, 15)]
        assert all(row.dtype == torch.int64 for row in index)

    @pytest.mark.parametrize("safeguard, least", [(0, 0), (0.01, 1), (0.2, 2), (0.5, 5), (1, 10)])
    def test_a_safeguard_is_a_part_of_the_even_share(self, safeguard: float, least: int) -> None:
        index = Plan(policy("adakv", "knorm", {"safeguard": safeguard}, budget=10), SEGMENTS, N, [0]).choose(
            make_layer()
        )
        assert [len(row) for row in rows(index)] == [least, 20 - least]

    def test_a_head_may_lose_everything_to_the_model(self) -> None:
        plan = Plan(policy("kvzip", ratio=0.5), SEGMENTS, N, [0])
        plan.divide([make_layer()])
        assert [tuple(row.shape) for row in plan.choose(make_layer())] == [(1, 0), (1, 20)]


class TestLayersThatDoNotEvict:
    """The middle one of three layers has a sliding window."""

    WINDOWS = (None, 6, None)

    def lengths(self, wanted: Policy) -> tuple[list[list[int]], Context, Variant]:
        """Pairs that each head of each layer is left with, through a context."""
        variant = Variant(wanted, SEGMENTS)
        context = Context(tuple(range(N)), "doc", [variant], self.WINDOWS)
        layers = [make_layer(index=i) for i in range(3)]
        for layer, window in zip(layers, self.WINDOWS, strict=True):
            context.store(layer, window)
        if context.replays:
            context.finish(variant, [layer.replayed for layer in layers if layer.replayed is not None])
        cache = context.caches[variant]
        return (
            [[p.keys.shape[1] for pairs in layer for p in pairs.by_head()] for layer in cache.layers],
            context,
            variant,
        )

    def test_a_pyramid_is_built_of_the_others(self) -> None:
        lengths, _, _ = self.lengths(policy("pyramidkv", None, {"window": 1}, ratio=0.5))
        assert lengths == [[19, 19], [6, 6], [1, 1]]

    @pytest.mark.parametrize("fair", [0.0, 1.0])
    def test_the_model_pools_the_others(self, fair: float) -> None:
        lengths, context, variant = self.lengths(policy("kvzip", ratio=0.75, fair=fair))
        assert lengths[1] == [6, 6]
        assert sum(lengths[0] + lengths[2]) == 5 * KV_HEADS * 2
        assert lengths[0][0] == lengths[2][0] == 0  # the heads that win have room for all
        worth = torch.cat([make_layer(index=i).replayed for i in (0, 2)])  # type: ignore[misc]
        best = worth.flatten().argsort(descending=True)[:20] // N
        assert lengths[0] + lengths[2] == torch.bincount(best, minlength=4).tolist()
        assert context.caches[variant].full_pairs == KV_HEADS * (N + 6 + N)

    def test_the_rates_are_of_the_others(self) -> None:
        _, context, variant = self.lengths(policy(ratio=0.5, fair=1.0))
        # 10 pairs over ranges of 8 and 12 tokens; the second segment is 10 of its 12.
        index = [Plan(variant.policy, SEGMENTS, N, (0, 2)).choose(make_layer(index=i)) for i in (0, 2)]
        heads = [row for layer in index for row in rows(layer)]
        loops = {
            name: sum(p in row for row in heads for p in range(start, stop)) / len(heads) / (stop - start)
            for name, start, stop in SEGMENTS
        }
        assert context.caches[variant].keep_rates == pytest.approx(loops)
        assert context.caches[variant].keep_rates["a"] == 0.5

    @pytest.mark.parametrize("fair", [0.0, 0.5, 1.0])
    def test_what_is_no_number_names_the_document_and_the_layer(self, fair: float) -> None:
        variant = Variant(policy("knorm", ratio=0.5, fair=fair), SEGMENTS)
        context = Context(tuple(range(N)), "doc", [variant], (None, None, None))
        layers = [make_layer(index=index) for index in range(3)]
        layers[1].k[0, 3] = float("nan")
        context.store(layers[0], None)
        context.store(layers[1], None)
        with pytest.raises(RequestError, match=r"doc: layer 1: a press must give a number for each position, got nan"):
            context.store(layers[2], None)

    def test_a_press_that_fails_names_the_document(self) -> None:
        with pytest.raises(RequestError, match=r"doc: dividing the budget failed: "):
            variant = Variant(policy("kvzip", ratio=0.5), SEGMENTS)
            context = Context(tuple(range(N)), "doc", [variant], (None,))
            context.store(make_layer(), None)
            context.finish(variant, [torch.full((KV_HEADS, N), float("nan"))])
