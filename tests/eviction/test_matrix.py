"""Every press in every setting: counts are exact, the whitelist survives, and what is kept is what scores highest."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, wraps
from typing import Any

import pytest
import torch
from exact_shares import largest_remainder_exactly, shares_exactly
from hypothesis import given, settings
from hypothesis import strategies as st

from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.budgets import pyramid
from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press
from fairkv_eval.eviction.press_files import built_in_presses, load_press
from fairkv_eval.prompts.segments import Segment

# Press, what it wraps, parameters. Defaults, and windows that are small beside the budgets met here.
PRESSES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "streaming_llm": ("streaming_llm", None, {}),
    "snapkv": ("snapkv", None, {}),
    "snapkv small": ("snapkv", None, {"window": 3, "kernel": 3}),
    "h2o": ("h2o", None, {}),
    "h2o recent": ("h2o", None, {"recent": 0.5}),
    "tova": ("tova", None, {}),
    "knorm": ("knorm", None, {}),
    "keydiff": ("keydiff", None, {}),
    "lagkv": ("lagkv", None, {}),
    "lagkv small": ("lagkv", None, {"sinks": 1, "lag": 3}),
    "expected_attention": ("expected_attention", None, {}),
    "random": ("random", None, {}),
    "pyramidkv": ("pyramidkv", None, {}),
    "pyramidkv small": ("pyramidkv", None, {"window": 2, "beta": 3}),
    "kvzip": ("kvzip", None, {}),
    "kvzip uniform": ("kvzip", None, {"uniform": True}),
    "adakv": ("adakv", None, {}),
    "adakv snapkv small": ("adakv", "snapkv", {"window": 3}),
    "adakv knorm": ("adakv", "knorm", {"safeguard": 0}),
    "adakv h2o": ("adakv", "h2o", {"recent": 0.5, "safeguard": 0.5}),
    "adakv pyramidkv": ("adakv", "pyramidkv", {"window": 2, "beta": 3}),
    "chunkkv": ("chunkkv", None, {}),
    "chunkkv snapkv small": ("chunkkv", "snapkv", {"window": 3, "chunk": 3}),
    "chunkkv tova": ("chunkkv", "tova", {"chunk": 4}),
    "chunkkv streaming_llm": ("chunkkv", "streaming_llm", {}),
}
POOLED = {"kvzip": "model", "kvzip uniform": "layer"} | {name: "layer" for name in PRESSES if name.startswith("adakv")}
CONTEXTS = (1, 2, 5, 17, 300)
RATIOS = ("0.1", "0.5", "0.9", "0.99")
FAIR = (0.0, 0.5, 1.0)
KEPT = "kept"

LAYERS, HEADS, KV_HEADS, DIM = 3, 4, 2, 8


def segmentation(n: int, count: int) -> tuple[Segment, ...]:
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
    found = []
    for index in range(LAYERS):
        q, k, v = (torch.randn(heads, n, DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS))
        k *= torch.rand(KV_HEADS, 1, 1, generator=generator) * 3  # heads that differ compete unevenly
        if index == 1:
            k, v = k[:, torch.arange(n) % 4], v[:, torch.arange(n) % 4]
        replayed = torch.rand(KV_HEADS, n, generator=generator).mul(20).round() / 20
        found.append(Layer(q, k, v, DIM**-0.5, index, LAYERS, n, rotation=rotation, replayed=replayed))
    return found


@cache
def remembering(name: str) -> tuple[Press, Any]:
    """A press whose scores are worked out once for all cells, and its parameters."""
    rule, base, given = PRESSES[name]
    press = load_press(rule, base)
    assert press is not None
    budgeted = (press.base or press).name == "h2o"  # no other rule looks at the budget
    parameters = press.configure(given)
    if press.base is not None:
        press = replace(press, base=remembered(press.base, budgeted))
    return remembered(press, budgeted), parameters


def evicting(press: Press, layers: list[Layer]) -> list[Layer]:
    """All three layers where budgets differ by layer; elsewhere two of them say as much."""
    return layers if "beta" in press.parameters else layers[:2]


def remembered(press: Press, budgeted: bool) -> Press:
    if press.score is None:
        return press
    score, seen = press.score, {}

    @wraps(score)
    def once(layer: Layer, span: Span, **given: Any) -> torch.Tensor:
        key = layer.index, layer.k.shape[1], span if budgeted else replace(span, budget=0)
        if key not in seen:
            seen[key] = score(layer, span, **given)
        return seen[key]

    return replace(press, score=once)


@dataclass
class Reference:
    """METHODS' rule in lists and exact fractions: what heads with these budgets keep of one layer."""

    policy: Policy
    layer: Layer
    spans: list[tuple[int, int]]
    listed: tuple[bool, ...]
    mean: int
    memory: dict

    def ranking(self, span: Span, head: int) -> list[int]:
        """Positions from the best: whitelisted ones, then higher scores, then later ones."""
        question = self.layer.index, span, self.listed, head
        if question not in self.memory:
            listed, worth = self.listed, self.worth(span)[head]
            order = [(listed[p], worth[p - span.start], p) for p in range(span.start, span.stop)]
            self.memory[question] = [p for *_, p in sorted(order, reverse=True)]
        return self.memory[question]

    def worth(self, span: Span) -> list[list[float]]:
        """The press's own scores."""
        question = self.layer.index, len(self.listed), span
        if question not in self.memory:
            self.memory[question] = self.policy.scorer(self.layer)(span).tolist()
        return self.memory[question]

    @property
    def whole(self) -> Span:
        return Span(0, len(self.listed), budget=self.mean)

    def proportional(self, budget: int) -> list[Fraction]:
        floors = [sum(self.listed[a:b]) for a, b in self.spans]
        return shares_exactly([b - a for a, b in self.spans], floors, budget)

    def kept(self, head: int, budget: int) -> list[int]:
        plain, fair = self.ranking(self.whole, head)[:budget], Fraction(self.policy.fair)
        if not fair:
            return sorted(plain)
        counts = [sum(a <= p < b for p in plain) for a, b in self.spans]
        shares = self.proportional(budget)
        mixed = [(1 - fair) * count + fair * share for count, share in zip(counts, shares, strict=True)]
        quotas = largest_remainder_exactly(mixed, budget) if budget else [0] * len(counts)
        told = largest_remainder_exactly(self.proportional(self.mean), self.mean)
        chosen: list[int] = []
        for i, (a, b) in enumerate(self.spans):
            chosen += self.ranking(Span(a, b, i, len(self.spans), told[i]), head)[: quotas[i]]
        return sorted(chosen)


@cache
def spans_of(segments: tuple[Segment, ...], n: int) -> list[tuple[int, int]]:
    """A position belongs to the last segment that begins at or before it, and to the first if there is none."""
    starts = sorted(s.start for s in segments)
    owner = [max((i for i, start in enumerate(starts) if start <= p), default=0) for p in range(n)]
    found = [[p for p in range(n) if owner[p] == i] for i in sorted(set(owner))]
    return [(positions[0], positions[-1] + 1) for positions in found]


def kept_of(policy: Policy, segments: tuple[Segment, ...], layers: list[Layer]) -> list[list[list[int]]]:
    """Kept positions by layer and head."""
    plan = Plan(policy, segments, layers[0].k.shape[1], range(len(layers)))
    plan.divide(layers)
    return [[row for index in plan.choose(layer) for row in index.tolist()] for layer in layers]


@cache
def whitelisted(keep: tuple[str, ...], segments: tuple[Segment, ...], n: int) -> tuple[bool, ...]:
    return tuple(any(s.name in keep and s.start <= p < s.stop for s in segments) for p in range(n))


def check(
    policy: Policy, segments: tuple[Segment, ...], layers: list[Layer], n_kept: int, cell: str, memory: dict
) -> None:
    """Every promise about one cell. ``memory`` is of one press and these layers."""
    n = layers[0].k.shape[1]
    listed = whitelisted(policy.keep, segments, n)
    if sum(listed) > n_kept:
        with pytest.raises(UsageError, match=rf"keep holds {sum(listed)} tokens.* of {n} tokens is {n_kept}:"):
            kept_of(policy, segments, layers)
        return
    result = kept_of(policy, segments, layers)
    budgets = [[len(row) for row in heads] for heads in result]
    assert sum(map(sum, budgets)) == len(layers) * KV_HEADS * n_kept, cell
    assert [len(heads) for heads in budgets] == [KV_HEADS] * len(layers), cell
    if policy.division.pooled != "model":
        told = dict(policy.parameters)
        means = [n_kept] * len(layers)
        if "beta" in told:
            means = pyramid(n, n_kept, len(layers), sum(listed), window=told["window"], beta=told["beta"])
        assert [sum(heads) for heads in budgets] == [KV_HEADS * mean for mean in means], cell
    plain = replace(policy, fair=0.0)
    if (plain, n, listed) not in memory:
        memory[plain, n, listed] = [[len(row) for row in heads] for heads in kept_of(plain, segments, layers)]
    assert budgets == memory[plain, n, listed], cell  # a head's budget is the press's, whatever is fair
    rules = []
    for layer, heads in zip(layers, result, strict=True):
        mean = round(sum(map(len, heads)) / KV_HEADS)
        rules.append(Reference(policy, layer, spans_of(segments, n), listed, mean, memory))
        for head, row in enumerate(heads):
            assert row == sorted(set(row)) and all(0 <= p < n for p in row), cell
            assert {p for p in range(n) if listed[p]} <= set(row), cell
            assert row == rules[-1].kept(head, len(row)), f"{cell}, layer {layer.index}, head {head}"
    check_pools(policy, rules, result, cell)


def check_pools(policy: Policy, rules: list[Reference], result: list[list[list[int]]], cell: str) -> None:
    """Where heads compete, no pair that one let go is worth more than one that another won beyond its safeguard."""
    pooled = policy.division.pooled
    lanes = [
        (rule, head, len(row)) for rule, heads in zip(rules, result, strict=True) for head, row in enumerate(heads)
    ]
    if pooled == "layer":
        pools = [lanes[i : i + KV_HEADS] for i in range(0, len(lanes), KV_HEADS)]
    else:
        pools = [lanes] if pooled == "model" else []
        assert pooled or all(len({len(row) for row in heads}) == 1 for heads in result), cell
    for pool in pools:
        won, lost = [], []
        for rule, head, budget in pool:
            guarded = int(Fraction(str(policy.division.safeguard)) * rule.mean)
            floor = max(sum(rule.listed), guarded, 1 if policy.division.safeguard else 0)
            assert budget >= floor, cell
            order, worth = rule.ranking(rule.whole, head), rule.worth(rule.whole)[head]
            won += [worth[p] for p in order[floor:budget]]
            lost += [worth[p] for p in order[budget:]]
        assert not won or not lost or min(won) >= max(lost), cell


def cells() -> Iterator[tuple[str, dict[str, Any], tuple[Segment, ...], int, int]]:
    """What the matrix asks for: its name, settings of a policy, segments, tokens, and pairs a layer and head keeps.

    Short contexts put many cells to the same question; it is asked once.
    """
    asked = set()
    for n, count, keep, ratio, fair in itertools.product(CONTEXTS, range(1, 6), ((), (KEPT,)), RATIOS, FAIR):
        segments = segmentation(n, count)
        n_kept = max(1, int(n * (1 - Fraction(ratio))))
        listed = [(s.start, s.stop) for s in segments if s.name in keep and s.stop > s.start]
        question = (n, *spans_of(segments, n), *listed, bool(listed), n_kept, fair)
        if question not in asked:
            asked.add(question)
            cell = f"{n} tokens, {count} segments, keep {list(keep)}, ratio {ratio}, fair {fair}"
            yield cell, {"ratio": float(ratio), "fair": fair, "keep": keep}, segments, n, n_kept


def test_every_press_is_in_the_matrix() -> None:
    assert {press for press, *_ in PRESSES.values()} == {press.name for press in built_in_presses().values()}
    for name in PRESSES:
        assert Policy(*remembering(name)).division.pooled == POOLED.get(name, ""), name
    asked = list(cells())
    assert {(n, len(segments), setting["ratio"], setting["fair"]) for _, setting, segments, n, _ in asked} >= {
        (300, count, float(ratio), fair) for count in range(1, 6) for ratio in RATIOS for fair in FAIR
    }
    fits = [sum(whitelisted(s["keep"], segments, n)) <= kept for _, s, segments, n, kept in asked]
    assert fits.count(False) > 20 and fits.count(True) > 200


@pytest.mark.parametrize("name", PRESSES)
def test_matrix(name: str) -> None:
    press, parameters = remembering(name)
    memory: dict = {}
    for cell, setting, segments, n, n_kept in cells():
        check(Policy(press, parameters, **setting), segments, evicting(press, layers_of(n)), n_kept, cell, memory)


@st.composite
def questions(draw: st.DrawFn) -> tuple[dict[str, Any], tuple[Segment, ...], list[Layer], int]:
    n = draw(st.integers(1, 24), label="n")
    edges = sorted(draw(st.lists(st.integers(0, n), min_size=2, max_size=6), label="edges"))
    pairs = itertools.pairwise(edges)
    names = [KEPT if draw(st.booleans()) else "let go" for _ in edges[1:]]
    segments = tuple(Segment(name, a, b) for name, (a, b) in zip(names, pairs, strict=True))
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
        )
        for layer in layers_of(n)
    ]
    return {"budget": n_kept, "fair": fair, "keep": keep}, segments, layers, n_kept


@pytest.mark.parametrize("name", PRESSES)
@given(question=questions())
@settings(max_examples=12, deadline=None)
def test_drawn_contexts(name: str, question: tuple) -> None:
    setting, segments, layers, n_kept = question
    rule, base, given = PRESSES[name]
    press = load_press(rule, base)
    assert press is not None
    check(Policy(press, press.configure(given), **setting), segments, evicting(press, layers), n_kept, "drawn", {})
