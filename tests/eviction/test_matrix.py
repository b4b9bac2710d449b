"""Every press in every setting: counts are exact, the whitelist survives, and what is kept is what scores highest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, wraps
from typing import Any, NamedTuple

import kept_by_loops
import merged_by_loops
import press_table
import pytest
import torch
from exact_shares import largest_remainder_exactly, shares_exactly
from hypothesis import given, settings
from hypothesis import strategies as st
from press_table import OWN, PRESSES
from scores_by_loops import output_of

from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.budgets import pyramid
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.policy_arguments import AMOUNTS
from fairkv_eval.eviction.press import Press
from fairkv_eval.eviction.press_files import built_in_presses
from fairkv_eval.eviction.quotas import n_kept
from fairkv_eval.prompts.segments import Segment

CONTEXTS = (1, 2, 5, 17, 300)
RATIOS = ("0.1", "0.5", "0.9", "0.99")
FAIR = (0.0, 0.5, 1.0)
KEPT = "kept"
BUDGETED = {"h2o", "compactor", "criticalkv"}  # presses whose scores depend on the budget

LAYERS, HEADS, KV_HEADS, DIM = 3, 4, 2, 8

Segments = tuple[Segment, ...]
Kept = list[list[list[int]]]  # positions by layer and head


def segmentation(n: int, count: int) -> Segments:
    """One to five segments of a context of n tokens; what `keep` names is short, long, empty or one token."""
    at = [0, n // 50, n // 4, n // 2, n - n // 5, n - 1, n]
    layouts = [
        [(KEPT, at[1], at[5])],
        [("a", at[0], at[3]), (KEPT, at[3], at[6])],
        [("a", at[1], min(at[1] + 1, n)), (KEPT, at[2], min(at[2] + 2, n)), ("b", at[3], at[4])],
        [("a", at[0], at[2]), ("empty", at[2], at[2]), (KEPT, at[2], min(at[2] + 1, n)), ("b", at[3], at[6])],
        [("a", at[0], at[1]), (KEPT, at[1], at[2]), ("b", at[2], at[3]), ("c", at[3], at[4]), ("one", at[5], at[6])],
    ]
    return tuple(Segment(*entry) for entry in layouts[count - 1])


@cache
def layers_of(n: int) -> list[Layer]:
    """Random layers of a context of n tokens; in the second, tokens repeat, so that their scores tie."""
    generator = torch.Generator().manual_seed(n)
    rotation = Rotation("half", 10.0 ** -torch.arange(DIM // 2))
    layers = []
    for index in range(LAYERS):
        q, k, v = (torch.randn(heads, n, DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS))
        k *= torch.rand(KV_HEADS, 1, 1, generator=generator) * 3  # heads that differ compete unevenly
        if index == 1:
            k, v = k[:, torch.arange(n) % 4], v[:, torch.arange(n) % 4]
        replayed = torch.rand(KV_HEADS, n, generator=generator).mul(20).round() / 20
        seen = {"rotation": rotation, "replayed": replayed, "output": output_of(HEADS, DIM)}
        layer = Layer(q, k, v, DIM**-0.5, index, LAYERS, n, **seen)
        layers.append(replace(layer, replayed_by_query_head=replayed.repeat_interleave(HEADS // KV_HEADS, 0)))
    return layers


def layers_for(press: Press, layers: list[Layer]) -> list[Layer]:
    """All three layers if budgets differ by layer; two of them say as much otherwise."""
    return layers if {"beta", "by_layer", "bound"} & press.parameters.keys() else layers[:2]


def with_cached_scores(press: Press) -> Press:
    """The press, with each score computed once for all settings."""
    sees_budget = not BUDGETED.isdisjoint((press.name, press.base.name if press.base else ""))
    if press.name == "blockwise":  # its base scores other layers too
        return _cached(press, sees_budget=True)
    if press.base is not None:
        press = replace(press, base=_cached(press.base, sees_budget))
    return _cached(press, sees_budget)


def _cached(press: Press, sees_budget: bool) -> Press:
    if press.score is None:
        return press
    score, scores_by_span = press.score, {}

    @wraps(score)
    def once(layer: Layer, span: Span, **given: Any) -> torch.Tensor:
        key = layer.index, layer.k.shape[1], span if sees_budget else replace(span, budget=0)
        if key not in scores_by_span:
            scores_by_span[key] = score(layer, span, **given)
        return scores_by_span[key]

    return replace(press, score=once)


@dataclass
class Reference:
    """METHODS' rule in lists and exact fractions: what heads with these budgets keep of one layer.

    ``mean_budget`` of a head; ``head_budgets`` if the press's rule sees them. ``rankings`` holds what was sorted
    before, since settings share most of it.
    """

    policy: Policy
    layer: Layer
    spans: list[tuple[int, int]]
    whitelisted: tuple[bool, ...]
    mean_budget: int
    head_budgets: tuple[int, ...]
    rankings: dict

    def ranking(self, span: Span, head: int) -> list[int]:
        """Positions from the best: whitelisted ones, then higher scores, then later ones."""
        key = self.layer.index, span, self.whitelisted, head
        if key not in self.rankings:
            scores = self.scores(span)[head]
            order = [(self.whitelisted[p], scores[p - span.start], p) for p in range(span.start, span.stop)]
            self.rankings[key] = [p for *_, p in sorted(order, reverse=True)]
        return self.rankings[key]

    def scores(self, span: Span) -> list[list[float]]:
        """The press's own scores, by head."""
        return self.policy.scorer(self.layer)(span).tolist()

    @property
    def context(self) -> Span:
        return replace(self.arena, head_budgets=self.head_budgets)

    @property
    def arena(self) -> Span:
        """The context before the budgets of heads are known: where they compete for them."""
        n = len(self.whitelisted)
        return Span(0, n, budget=n if self.by_score else self.mean_budget)

    def proportional(self, budget: int) -> list[Fraction]:
        """Each span's share of a budget, no less than its whitelisted tokens."""
        floors = [sum(self.whitelisted[a:b]) for a, b in self.spans]
        return shares_exactly([b - a for a, b in self.spans], floors, budget)

    @property
    def by_score(self) -> bool:
        """Whether scores decide the budget, so that rules see none but that of all pairs."""
        return self.policy.division.least is not None

    def kept(self, head: int, budget: int) -> list[int]:
        plain, fair = self.ranking(self.context, head)[:budget], Fraction(self.policy.fair)
        if not fair:
            return sorted(plain)
        counts = [sum(a <= p < b for p in plain) for a, b in self.spans]
        shares = self.proportional(budget)
        mixed = [(1 - fair) * count + fair * share for count, share in zip(counts, shares, strict=True)]
        quotas = largest_remainder_exactly(mixed, budget) if budget else [0] * len(counts)
        means, *by_head = (
            largest_remainder_exactly(self.proportional(x), x) for x in (self.mean_budget, *self.head_budgets)
        )
        chosen: list[int] = []
        for i, (a, b) in enumerate(self.spans):
            mean = b - a if self.by_score else means[i]
            span = Span(a, b, i, len(self.spans), mean, tuple(budgets[i] for budgets in by_head))
            chosen += self.ranking(span, head)[: quotas[i]]
        return sorted(chosen)


@cache
def spans_of(segments: Segments, n: int) -> list[tuple[int, int]]:
    """A position belongs to the last segment that begins at or before it, and to the first if there is none."""
    starts = sorted(s.start for s in segments)
    owner = [max((i for i, start in enumerate(starts) if start <= p), default=0) for p in range(n)]
    positions_by_span = [[p for p in range(n) if owner[p] == i] for i in sorted(set(owner))]
    return [(positions[0], positions[-1] + 1) for positions in positions_by_span]


@cache
def whitelist_mask(keep: tuple[str, ...], segments: Segments, n: int) -> tuple[bool, ...]:
    return tuple(any(s.name in keep and s.start <= p < s.stop for s in segments) for p in range(n))


def choose(policy: Policy, segments: Segments, layers: list[Layer]) -> Kept:
    """What the package keeps."""
    plan = Plan(policy, segments, layers[0].k.shape[1], range(len(layers)))
    plan.divide(layers)
    return [[row for index in plan.choose(layer) for row in index.tolist()] for layer in layers]


class Setting(NamedTuple):
    """Arguments of a policy beside its press, a context of n tokens, and the pairs that a layer and head keeps."""

    arguments: dict[str, Any]
    segments: Segments
    n: int
    n_kept: int

    def __str__(self) -> str:
        return f"{self.n} tokens, {len(self.segments)} segments, {self.arguments}"

    @property
    def whitelisted(self) -> tuple[bool, ...]:
        return whitelist_mask(self.arguments["keep"], self.segments, self.n)


def matrix() -> Iterator[Setting]:
    """All settings. Many of short contexts come to the same, of which the first stands for the others."""
    seen = set()
    for n, count, keep, ratio, fair in itertools.product(CONTEXTS, range(1, 6), ((), (KEPT,)), RATIOS, FAIR):
        segments = segmentation(n, count)
        n_kept = max(1, int(n * (1 - Fraction(ratio))))
        ranges = tuple((s.start, s.stop) for s in segments if s.name in keep and s.stop > s.start)
        key = n, *spans_of(segments, n), ranges, n_kept, fair
        if key not in seen:
            seen.add(key)
            yield Setting({"ratio": float(ratio), "fair": fair, "keep": keep}, segments, n, n_kept)


def policy_of(press: Press, parameters: Any, setting: Setting, **others: Any) -> Policy:
    """A press in a setting; one that says itself how much is kept is not told."""
    amounts = AMOUNTS if press.name in OWN else ()
    arguments = {name: value for name, value in setting.arguments.items() if name not in amounts}
    return Policy(press, parameters, **arguments, **others)


class Checker:
    """Checks every promise about one press, setting by setting."""

    def __init__(self, press: Press, parameters: Any) -> None:
        self.press, self.parameters = press, parameters
        self.rankings: dict = {}
        self.plain_budgets: dict = {}

    def check(self, setting: Setting, layers: list[Layer]) -> None:
        policy = policy_of(self.press, self.parameters, setting)
        listed, n, room = sum(setting.whitelisted), setting.n, self._room(policy, setting)
        if listed > room:
            message = rf"keep holds {listed} tokens.* of {n} tokens is {room}:"
            with pytest.raises(UsageError, match=message):
                choose(policy, setting.segments, layers)
            return
        kept = choose(policy, setting.segments, layers)
        self._check_counts(policy, setting, layers, kept)
        references = self._check_positions(policy, setting, layers, kept)
        check_pools(policy, references, kept, setting)

    def _room(self, policy: Policy, setting: Setting) -> int:
        """Pairs that the smallest layer has room for, before any score is seen."""
        if policy.division.least is not None:
            return setting.n
        ratios = str(dict(policy.parameters).get("by_layer", "")).split("+")
        return min(n_kept(setting.n, float(ratio)) for ratio in ratios) if ratios != [""] else setting.n_kept

    def _check_counts(self, policy: Policy, setting: Setting, layers: list[Layer], kept: Kept) -> None:
        budgets = [[len(row) for row in heads] for heads in kept]
        assert [len(heads) for heads in budgets] == [KV_HEADS] * len(layers), setting
        if policy.press_name in (*OWN, "kvcompose", "zigzagkv"):
            whitelisted = {p for p, stays in enumerate(setting.whitelisted) if stays}
            assert budgets == kept_by_loops.budgets_by_head(policy, layers, whitelisted), setting
        if policy.press_name in OWN:
            assert sum(map(sum, budgets)) <= policy.n_kept(setting.n) * len(layers) * KV_HEADS, setting
            return
        assert sum(map(sum, budgets)) == len(layers) * KV_HEADS * setting.n_kept, setting
        if policy.division.pooled != "model":
            means = [setting.n_kept] * len(layers)
            given = dict(policy.parameters)
            if "beta" in given:
                floor = sum(setting.whitelisted)
                window, beta = given["window"], given["beta"]
                means = pyramid(setting.n, setting.n_kept, len(layers), floor, window=window, beta=beta)
            assert [sum(heads) for heads in budgets] == [KV_HEADS * mean for mean in means], setting
        plain = replace(policy, fair=0.0)
        key = plain, setting.n, setting.whitelisted
        if key not in self.plain_budgets:
            plainly = choose(plain, setting.segments, layers)
            self.plain_budgets[key] = [[len(row) for row in heads] for heads in plainly]
        assert budgets == self.plain_budgets[key], setting  # a head's budget is the press's, whatever is fair

    def _check_positions(self, policy: Policy, setting: Setting, layers: list[Layer], kept: Kept) -> list[Reference]:
        n, whitelisted, references = setting.n, setting.whitelisted, []
        for layer, heads in zip(layers, kept, strict=True):
            mean = round(sum(map(len, heads)) / KV_HEADS)
            spans = spans_of(setting.segments, n)
            by_head = tuple(map(len, heads)) if policy.division.pooled and sees_heads(self.press) else ()
            references.append(Reference(policy, layer, spans, whitelisted, mean, by_head, self.rankings))
            for head, row in enumerate(heads):
                assert row == sorted(set(row)) and all(0 <= p < n for p in row), setting
                assert {p for p in range(n) if whitelisted[p]} <= set(row), setting
                assert row == references[-1].kept(head, len(row)), f"{setting}, layer {layer.index}, head {head}"
        return references


def check_pools(policy: Policy, references: list[Reference], kept: Kept, setting: Setting) -> None:
    """Where heads compete, no pair that one lost is worth more than one that another won beyond its safeguard."""
    if policy.press_name == "zigzagkv" or dict(policy.parameters).get("structured"):
        assert all(len({len(row) for row in heads}) == 1 for heads in kept), setting
        return
    if policy.division.least is not None:
        return
    pooled, safeguard = policy.division.pooled, policy.division.safeguard
    lanes = [
        (reference, head, len(row))
        for reference, heads in zip(references, kept, strict=True)
        for head, row in enumerate(heads)
    ]
    if pooled == "layer":
        pools = [lanes[i : i + KV_HEADS] for i in range(0, len(lanes), KV_HEADS)]
    else:
        pools = [lanes] if pooled == "model" else []
        assert pooled or all(len({len(row) for row in heads}) == 1 for heads in kept), setting
    for pool in pools:
        won, lost = [], []
        for reference, head, budget in pool:
            guarded = int(Fraction(str(safeguard)) * reference.mean_budget)
            floor = max(sum(reference.whitelisted), guarded, 1 if safeguard else 0)
            assert budget >= floor, setting
            order, scores = reference.ranking(reference.arena, head), reference.scores(reference.arena)[head]
            won += [scores[p] for p in order[floor:budget]]
            lost += [scores[p] for p in order[budget:]]
        assert not won or not lost or min(won) >= max(lost), setting


def sees_heads(press: Press) -> bool:
    """Whether budgets by head reach its rule."""
    return press.base is not None and press.score is not None


def pooled_over(name: str) -> str:
    """Over what the heads of a press of the table compete, as METHODS has it."""
    if name.startswith(("adakv", "criticalkv pooled")) or name == "kvzip uniform":
        return "layer"
    return "model" if name.startswith(("kvzip", "kvcompose", "zigzagkv")) else ""


def test_the_matrix_is_whole() -> None:
    assert {press_table.press(name).name for name in PRESSES} == {press.name for press in built_in_presses().values()}
    for name in PRESSES:
        press = press_table.press(name)
        assert press.division(press.configure(press_table.parameters(name))).pooled == pooled_over(name), name
    every = list(matrix())
    assert {(s.n, len(s.segments), s.arguments["ratio"], s.arguments["fair"]) for s in every} >= {
        (300, count, float(ratio), fair) for count in range(1, 6) for ratio in RATIOS for fair in FAIR
    }
    fits = [sum(setting.whitelisted) <= setting.n_kept for setting in every]
    assert fits.count(False) > 20 and fits.count(True) > 200


@pytest.mark.parametrize("name", PRESSES)
def test_matrix(name: str) -> None:
    press = press_table.press(name)
    checker = Checker(with_cached_scores(press), press.configure(press_table.parameters(name)))
    for setting in matrix():
        checker.check(setting, layers_for(press, layers_of(setting.n)))


@pytest.mark.parametrize("merge", ["similar", "d2o"])
@pytest.mark.parametrize("name", PRESSES)
def test_merges_of_the_matrix(name: str, merge: str) -> None:
    """What every press evicts of a context of 17 tokens, merged as loops do it: plain in one span, fair by segment."""
    press = with_cached_scores(press_table.press(name))
    fits = [setting for setting in matrix() if setting.n == 17 and sum(setting.whitelisted) <= min(3, setting.n_kept)]
    for setting in fits[::4]:
        policy = policy_of(press, press.configure(press_table.parameters(name)), setting, merge=merge)
        layers = layers_for(press, layers_of(17))
        plan = Plan(policy, setting.segments, 17, range(len(layers)))
        plan.divide(layers)
        spans = spans_of(setting.segments, 17) if policy.fair else [(0, 17)]
        check_merges(plan, merge, layers[0], spans, {p for p in range(17) if setting.whitelisted[p]})


def check_merges(plan: Plan, merge: str, layer: Layer, spans: list[tuple[int, int]], listed: set[int]) -> None:
    index = plan.choose(layer)
    merged, count = plan.merge(layer, index), 0
    for head, row in enumerate(row for part in index for row in part.tolist()):
        states = list(layer.k[head]), list(layer.v[head])
        if merge == "similar":
            expected = merged_by_loops.similar(*states, row, spans, listed)
        else:
            expected = merged_by_loops.d2o(*states, row, spans, listed, [None] * len(spans))
        count += expected.count
        for found, wanted in ((merged.layer.k, expected.keys), (merged.layer.v, expected.values)) if row else ():
            torch.testing.assert_close(found[head, row].double(), torch.stack(wanted).double(), atol=1e-5, rtol=1e-5)
    assert merged.n_pairs == count


@st.composite
def drawn_settings(draw: st.DrawFn) -> tuple[Setting, list[Layer]]:
    n = draw(st.integers(1, 24), label="n")
    edges = sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=6), label="edges"))
    names = [KEPT if draw(st.booleans()) else "let go" for _ in edges[1:]]
    segments = tuple(Segment(name, a, b) for name, (a, b) in zip(names, itertools.pairwise(edges), strict=True))
    n_kept = draw(st.integers(1, n), label="budget")
    fair = draw(st.sampled_from([0.0, 0.125, 0.5, 0.75, 1.0]), label="fair")
    keep = (KEPT,) if KEPT in names and draw(st.booleans(), label="keep") else ()
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999), label="rng"))
    layers = [
        replace(
            layer,
            q=torch.randn(HEADS, n, DIM, generator=generator),
            k=torch.randint(-1, 2, (KV_HEADS, n, DIM), generator=generator).float(),
            v=torch.randn(KV_HEADS, n, DIM, generator=generator),
            replayed=torch.randint(4, (KV_HEADS, n), generator=generator) / 4,
            replayed_by_query_head=torch.randint(4, (HEADS, n), generator=generator) / 4,
        )
        for layer in layers_of(n)
    ]
    return Setting({"budget": n_kept, "fair": fair, "keep": keep}, segments, n, n_kept), layers


@pytest.mark.parametrize("name", PRESSES)
@given(drawn=drawn_settings())
@settings(max_examples=12)
def test_drawn_contexts(name: str, drawn: tuple[Setting, list[Layer]]) -> None:
    setting, layers = drawn
    press = press_table.press(name)
    Checker(press, press.configure(press_table.parameters(name))).check(setting, layers_for(press, layers))
