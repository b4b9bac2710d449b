"""Budgets, quotas and the choice of what is kept, against a reference in exact fractions and plain lists."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from exact_shares import largest_remainder_exactly, shares_exactly
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.must_stay import MustStay
from fairkv_eval.eviction.quotas import (
    check_keep,
    choose,
    choose_by_head,
    largest_remainder,
    n_kept,
    numbers,
    ranges,
    shares,
)
from fairkv_eval.scores import PROTECTED, Span

RATIOS = ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "0.95", "0.99"]


class TestNKept:
    def test_binary_fractions_do_not_cost_a_token(self) -> None:
        assert n_kept(100, 0.9) == 10

    @pytest.mark.parametrize("ratio", RATIOS)
    def test_is_the_exact_floor_and_never_below_one(self, ratio: str) -> None:
        for n in range(1, 301):
            assert n_kept(n, float(ratio)) == max(1, math.floor(n * (1 - Fraction(ratio))))

    def test_at_ratio_zero_everything_stays(self) -> None:
        assert [n_kept(n, 0.0) for n in (1, 7, 131072)] == [1, 7, 131072]


def quotas_exactly(lengths: list[int], floors: list[int], total: int) -> list[int]:
    return largest_remainder_exactly(shares_exactly(lengths, floors, total), total)


def quotas(lengths: list[int], floors: list[int], total: int) -> list[int]:
    return largest_remainder(shares(lengths, floors, total), total)


class TestLargestRemainder:
    def test_ties_go_to_the_later(self) -> None:
        assert largest_remainder([1, 1], 3) == [1, 2]
        assert largest_remainder([1, 1, 1], 5) == [1, 2, 2]
        assert largest_remainder([5, 5, 10], 2) == [0, 1, 1]

    def test_remainders_decide_before_position(self) -> None:
        assert largest_remainder([19, 11], 10) == [6, 4]
        assert largest_remainder([17, 13], 10) == [6, 4]
        assert largest_remainder([14, 16], 7) == [3, 4]

    @given(st.lists(st.integers(1, 500), min_size=1, max_size=8), st.integers(0, 1000))
    def test_equals_exact_fractions(self, weights: list[int], total: int) -> None:
        assert largest_remainder(weights, total) == largest_remainder_exactly([Fraction(w) for w in weights], total)


@st.composite
def budgets(draw: st.DrawFn) -> tuple[list[int], list[int], int]:
    lengths = draw(st.lists(st.integers(1, 60), min_size=1, max_size=6))
    floors = [draw(st.integers(0, length)) for length in lengths]
    return lengths, floors, draw(st.integers(sum(floors), sum(lengths)))


class TestQuotas:
    @given(budgets())
    @example(([10, 10], [9, 0], 10))  # the floor of one span is taken from the other
    @example(([1, 1, 98], [1, 1, 0], 2))  # nothing is left for the long span
    def test_exact_sum_floors_and_lengths(self, budget: tuple[list[int], list[int], int]) -> None:
        lengths, floors, total = budget
        result = quotas(lengths, floors, total)
        assert sum(result) == total
        assert all(floor <= quota <= length for floor, quota, length in zip(floors, result, lengths, strict=True))
        assert result == quotas_exactly(lengths, floors, total)

    def test_without_whitelist_shares_are_proportional(self) -> None:
        assert quotas([30, 10], [0, 0], 20) == [15, 5]
        assert quotas([10, 10], [0, 0], 5) == [2, 3]
        assert quotas([1, 1, 8], [0, 0, 0], 5) == [0, 1, 4]

    def test_a_floor_below_the_share_changes_nothing(self) -> None:
        assert quotas([30, 10], [15, 5], 20) == quotas([30, 10], [0, 0], 20)


class TestRanges:
    def test_template_tokens_belong_to_their_neighbour(self) -> None:
        assert ranges([9, 72], 160) == [Span(0, 72, 0, 2), Span(72, 160, 1, 2)]

    def test_no_segment_is_one_span(self) -> None:
        assert ranges([], 7) == [Span(0, 7)] == ranges([3], 7)

    def test_empty_segments_own_nothing_and_are_not_counted(self) -> None:
        assert ranges([2, 4, 4], 9) == [Span(0, 4, 0, 2), Span(4, 9, 1, 2)]
        assert ranges([0, 0], 5) == [Span(0, 5)]

    def test_one_token_segments(self) -> None:
        assert [(s.start, s.stop) for s in ranges([0, 1, 2], 3)] == [(0, 1), (1, 2), (2, 3)]

    @given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.lists(st.integers(0, n - 1), max_size=6), st.just(n))))
    def test_cover_the_context_in_order(self, case: tuple[list[int], int]) -> None:
        starts, n = case
        spans = ranges(starts, n)
        assert [position for span in spans for position in range(span.start, span.stop)] == list(range(n))
        assert [(span.index, span.count) for span in spans] == [(i, len(spans)) for i in range(len(spans))]
        assert all(len(span) > 0 for span in spans)
        assert {span.start for span in spans} == {0, *sorted(starts)[1:]}
        assert spans == ranges(starts[::-1], n)  # the order in which segments are named does not matter


def kept_by_loops(
    tables: tuple[Tensor, Tensor], spans: list[Span], budget: int, fair: Fraction, keep: list[bool]
) -> list[list[int]]:
    """METHODS' rule, head by head. ``tables`` hold the scores of the whole context and those inside spans."""

    def best(table: Tensor, head: int, start: int, stop: int, count: int) -> list[int]:
        order = sorted(range(start, stop), key=lambda p: (keep[p], float(table[head, p]), p), reverse=True)
        return order[:count]

    inner = tables[0 if len(spans) == 1 else 1]
    lengths = [span.stop - span.start for span in spans]
    floors = [sum(keep[span.start : span.stop]) for span in spans]
    proportional = shares_exactly(lengths, floors, budget)
    rows = []
    for head in range(len(tables[0])):
        plain = best(tables[0], head, 0, len(keep), budget)
        counts = [len([p for p in plain if span.start <= p < span.stop]) for span in spans]
        if fair == 0:
            rows.append(sorted(plain))
            continue
        mixed = [(1 - fair) * count + fair * share for count, share in zip(counts, proportional, strict=True)]
        chosen = largest_remainder_exactly(mixed, budget)
        rows.append(
            sorted(p for s, c in zip(spans, chosen, strict=True) for p in best(inner, head, s.start, s.stop, c))
        )
    return rows


def scorer(tables: tuple[Tensor, Tensor], n: int) -> Callable[[Span], Tensor]:
    """A press whose scores inside a span differ from those in the whole context, as those of real presses do."""
    return lambda span: tables[0 if len(span) == n else 1][:, span.start : span.stop]


@st.composite
def evictions(draw: st.DrawFn) -> tuple[tuple[Tensor, Tensor], list[Span], int, list[bool]]:
    n = draw(st.sampled_from([1, 2, 5, 17, 300]), label="n")
    starts = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5), label="starts")
    heads = draw(st.integers(1, 3), label="heads")
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999), label="rng"))
    # Few distinct values make ties, and some pairs are protected.
    values = torch.tensor([-1.0, 0.0, 0.25, 0.5, PROTECTED])
    tables = tuple(values[torch.randint(len(values), (heads, n), generator=generator)] for _ in range(2))
    budget = n_kept(n, draw(st.sampled_from([0.0, 0.25, 0.5, 0.9]), label="ratio"))
    listed = draw(st.integers(0, budget), label="whitelisted")
    chosen = set(torch.randperm(n, generator=generator)[:listed].tolist())
    return tables, ranges(starts, n), budget, [position in chosen for position in range(n)]


class TestKept:
    @pytest.mark.parametrize("fair", [0.0, 0.25, 0.5, 1.0])
    @given(case=evictions())
    @settings(max_examples=60)
    def test_equals_the_rule_in_loops(self, fair: float, case: tuple) -> None:
        tables, spans, budget, keep = case
        n = len(keep)
        whitelist = MustStay(torch.tensor(keep)) if any(keep) else None
        result = choose(scorer(tables, n), spans, budget, fair, whitelist)
        assert result.dtype == torch.int64 and result.shape == (len(tables[0]), budget)
        for row in result.tolist():
            assert row == sorted(set(row)) and row[0] >= 0 and row[-1] < n
            assert {p for p in range(n) if keep[p]} <= set(row)
        if fair == 1:
            floors = [sum(keep[span.start : span.stop]) for span in spans]
            shares = quotas([len(span) for span in spans], floors, budget)
            for row in result.tolist():
                assert [sum(span.start <= p < span.stop for p in row) for span in spans] == shares
        assert result.tolist() == kept_by_loops(tables, spans, budget, Fraction(fair), keep)

    @given(case=evictions())
    @settings(max_examples=30)
    def test_inside_each_span_the_highest_scores_are_kept(self, case: tuple) -> None:
        tables, spans, budget, keep = case
        result = choose(scorer(tables, len(keep)), spans, budget, 1.0, MustStay(torch.tensor(keep)))
        for head, row in enumerate(result.tolist()):
            for span in spans:
                table = tables[0 if len(span) == len(keep) else 1][head].tolist()
                worth = [(table[p], p) for p in range(span.start, span.stop) if not keep[p]]
                inside = [(table[p], p) for p in row if span.start <= p < span.stop and not keep[p]]
                assert sorted(worth)[len(worth) - len(inside) :] == sorted(inside)

    def test_ties_go_to_the_later_position(self) -> None:
        flat = torch.zeros(2, 6)
        spans = ranges([0, 3], 6)
        assert choose(scorer((flat, flat), 6), spans, 3, 0, None).tolist() == [[3, 4, 5]] * 2
        assert choose(scorer((flat, flat), 6), spans, 3, 1, None).tolist() == [[2, 4, 5]] * 2

    def test_protected_pairs_beyond_the_budget_go_from_the_front(self) -> None:
        table = torch.tensor([[9.0, PROTECTED, PROTECTED, 1.0, PROTECTED]])
        assert choose(scorer((table, table), 5), ranges([], 5), 2, 0, None).tolist() == [[2, 4]]

    def test_the_whitelist_comes_before_protection(self) -> None:
        table = torch.tensor([[-5.0, PROTECTED, PROTECTED, 1.0]])
        keep = MustStay(torch.tensor([True, False, False, False]))
        assert choose(scorer((table, table), 4), ranges([], 4), 2, 0, keep).tolist() == [[0, 2]]

    def test_a_whitelist_is_paid_for_by_its_own_segment(self) -> None:
        table = torch.arange(8.0)[None]
        keep = MustStay(torch.tensor([True, True] + [False] * 6))
        assert choose(scorer((table, table), 8), ranges([0, 4], 8), 4, 1, keep).tolist() == [[0, 1, 6, 7]]

    def test_half_fair_lies_between(self) -> None:
        table = torch.tensor([[0.0] * 8 + [1.0] * 8])
        spans = ranges([0, 8], 16)
        first = [
            int((choose(scorer((table, table), 16), spans, 8, fair, None) < 8).sum()) for fair in (0, 0.25, 0.5, 1)
        ]
        assert first == [0, 1, 2, 4]

    def test_a_wide_dynamic_range_and_minus_infinity_are_scores_too(self) -> None:
        table = torch.tensor([[-math.inf, 1e-30, 1e30, -math.inf]])
        assert choose(scorer((table, table), 4), ranges([], 4), 3, 0, None).tolist() == [[1, 2, 3]]

    def test_a_press_that_leaves_out_a_position_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a score for each of 4 positions"):
            choose(lambda span: torch.zeros(2, 3), ranges([], 4), 2, 0, None)

    def test_what_is_no_number_is_refused(self) -> None:
        assert numbers(torch.tensor([-math.inf, math.inf, 0.0])).tolist() == [-math.inf, math.inf, 0.0]
        with pytest.raises(ValueError, match="got nan"):
            numbers(torch.tensor([[0.0, math.nan, 0.0, 1.0]]))


class TestKeptByHead:
    @pytest.mark.parametrize("fair", [0.0, 0.25, 0.5, 1.0])
    @given(case=evictions(), data=st.data())
    @settings(max_examples=40)
    def test_each_head_is_the_rule_at_its_own_budget(self, fair: float, case: tuple, data: st.DataObject) -> None:
        tables, spans, _, keep = case
        n, heads = len(keep), len(tables[0])
        head_budgets = [data.draw(st.integers(sum(keep), n), label="budget") for _ in range(heads)]
        whitelist = MustStay(torch.tensor(keep)) if any(keep) else None
        result = choose_by_head(scorer(tables, n), spans, head_budgets, fair, whitelist)
        assert [tuple(row.shape) for row in result] == [(1, budget) for budget in head_budgets]
        for head, budget in enumerate(head_budgets):
            alone = (tables[0][head : head + 1], tables[1][head : head + 1])
            assert result[head].tolist() == kept_by_loops(alone, spans, budget, Fraction(fair), keep)

    @pytest.mark.parametrize("fair", [0.0, 0.5, 1.0])
    def test_equal_budgets_are_the_even_rule(self, fair: float) -> None:
        table = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
        spans, keep = ranges([0, 11, 30], 40), MustStay(torch.arange(40) % 9 == 0)
        rows = choose_by_head(scorer((table, -table), 40), spans, [13] * 3, fair, keep)
        assert torch.cat(rows).tolist() == choose(scorer((table, -table), 40), spans, 13, fair, keep).tolist()

    def test_a_head_without_a_budget_keeps_nothing(self) -> None:
        table = torch.zeros(2, 6)
        for fair in (0, 0.5, 1):
            rows = choose_by_head(scorer((table, table), 6), ranges([0, 3], 6), [0, 6], fair, None)
            assert [row.tolist() for row in rows] == [[[]], [[0, 1, 2, 3, 4, 5]]]

    def test_spans_are_told_their_share_of_the_mean(self) -> None:
        scored = []

        def score(span: Span) -> Tensor:
            scored.append(span)
            return torch.zeros(2, len(span))

        choose_by_head(score, ranges([0, 6], 18), [2, 10], 0.5, None)
        assert scored == [
            Span(0, 18, budget=6, head_budgets=(2, 10)),
            Span(0, 6, 0, 2, 2, head_budgets=(1, 3)),
            Span(6, 18, 1, 2, 4, head_budgets=(1, 7)),
        ]


class TestCheckKeep:
    def test_what_fits_passes(self) -> None:
        check_keep(0, 10, 1)
        check_keep(5, 10, 5)

    def test_names_both_numbers(self) -> None:
        with pytest.raises(
            UsageError, match=r"keep holds 9 tokens.* of 10 tokens is 5: a ratio of at most 0\.1 would fit"
        ):
            check_keep(9, 10, 5)

    @given(st.integers(2, 200_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(2, n))))
    @example((10, 9))
    @example((5000, 4999))
    @example((128_000, 127_999))
    def test_the_ratio_it_names_is_the_largest_that_fits(self, case: tuple[int, int]) -> None:
        n, whitelisted = case
        with pytest.raises(UsageError) as error:
            check_keep(whitelisted, n, whitelisted - 1)
        ratio = float(re.findall(r"at most (\S+) would fit", str(error.value))[0])
        assert 0 <= ratio < 1
        assert n_kept(n, ratio) == whitelisted  # not one token more is kept than the whitelist needs
