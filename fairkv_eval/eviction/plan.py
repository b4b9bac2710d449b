"""What one policy keeps of one context: spans, whitelist and budgets are computed once, the choice layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.merging import Merged, merge
from fairkv_eval.eviction.must_stay import MustStay
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.quotas import (
    NO_NUMBER,
    ScoreSpan,
    check_keep,
    choose,
    choose_by_head,
    floor_of,
    pooled,
    ranges,
    rank,
)
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.whitelist import whitelist
from fairkv_eval.storage.room import Entry


class Plan:
    """A policy that evicts, on a context of n tokens and its segments.

    layers: indices of the layers that evict (those with a sliding window do not). marks: named token ranges besides the
    segments, for the whitelist. entries: of all layers, for budgets in bytes. Raises UsageError if the whitelist holds
    more tokens than its budget. A press that pools its budget over the model needs `divide` before `choose`.
    """

    def __init__(
        self,
        policy: Policy,
        segments: Sequence[Segment],
        n: int,
        layers: Sequence[int],
        marks: Sequence[Segment] = (),
        entries: Sequence[Entry] = (),
    ) -> None:
        self.policy = policy
        self.segments = segments
        self.n = n
        self.budget = policy.n_kept(n, entries)
        self.spans = ranges([segment.start for segment in segments], n)
        self._must_stay = MustStay.of(whitelist(segments, marks, policy.keep, n), n)
        self._n_whitelisted = self._must_stay.within(0, n) if self._must_stay else 0
        self._division = policy.division
        budgets = self._division.layers(n, self.budget, len(layers), self._n_whitelisted)
        smallest = self.budget if self._division.own is None else min(budgets, default=self.budget)
        check_keep(self._n_whitelisted, n, smallest, amount=policy.amount)
        self._budgets = dict(zip(layers, budgets, strict=True))
        self._head_budgets: dict[int, list[int]] = {}
        self._nan: list[tuple[int, Tensor]] = []  # layers, and whether a score of theirs is no number

    def choose(self, layer: Layer) -> list[Tensor]:
        """Kept positions of one layer, ascending: one int64 ``[kv_heads, m]``, or ``[1, m_h]`` for each head if they
        differ in number."""
        score = self._score(layer)
        if not self._division.pooled and self._division.least is None:
            return [choose(score, self.spans, self._budgets[layer.index], self.policy.fair, self._must_stay)]
        budgets = self._budgets_by_head(layer, score)
        return _merged(choose_by_head(score, self.spans, budgets, self.policy.fair, self._must_stay))

    def check(self) -> None:
        """ValueError if a score so far is no number. A device is asked once for all layers; choices by such scores
        mean nothing."""
        layers, self._nan = self._nan, []
        found = torch.stack([flag.to(layers[0][1].device) for _, flag in layers]).tolist() if layers else []
        for (index, _), bad in zip(layers, found, strict=True):
            if bad:
                raise ValueError(f"layer {index}: {NO_NUMBER}")

    def merge(self, layer: Layer, index: Sequence[Tensor]) -> Merged:
        """The layer with the pairs that `choose` evicts merged into those at ``index``, as the policy says."""
        spans = self.spans if self.policy.fair else [Span(0, self.n)]
        return merge(self.policy.merge, layer, index, spans, self._whitelisted_on(layer))

    def divide(self, layers: Sequence[Layer]) -> None:
        """Make the budgets of these layers of what all of them score, if the policy pools over the model."""
        if self._division.pooled != "model" or not layers:
            return
        device = layers[0].k.device
        worth = [self._worth(layer, self._score(layer), self.budget).to(device) for layer in layers]
        self.check()
        budgets = self._division.model(worth, self.budget, self._floor(self.budget))
        self._head_budgets = {layer.index: of_layer for layer, of_layer in zip(layers, budgets, strict=True)}

    def _score(self, layer: Layer) -> ScoreSpan:
        """The press's rule, with each span scored once. Where scores decide the budget, rules see that of all pairs."""
        rule = self.policy.scorer(layer)

        @cache
        def score(span: Span) -> Tensor:
            scores = rule(span)
            self._nan.append((layer.index, scores.isnan().any()))
            return scores

        if self._division.least is None:
            return score
        return lambda span: score(replace(span, budget=len(span), head_budgets=()))

    def _budgets_by_head(self, layer: Layer, score: ScoreSpan) -> list[int]:
        if self._division.least is not None:
            return self._above(layer, score, self._division.least)
        if self._division.pooled == "layer":
            budget = self._budgets[layer.index]
            return pooled(self._worth(layer, score, budget), layer.kv_heads * budget, self._floor(budget))
        if layer.index not in self._head_budgets:
            raise RuntimeError(f"the budget of layer {layer.index} was not divided before its pairs were chosen")
        return self._head_budgets[layer.index]

    def _above(self, layer: Layer, score: ScoreSpan, least: float) -> list[int]:
        """Pairs of each head that score at least this much, or are whitelisted."""
        stays = score(Span(0, self.n)) >= least
        whitelisted = self._whitelisted_on(layer)
        return (stays if whitelisted is None else stays | whitelisted).sum(-1).tolist()

    def _worth(self, layer: Layer, score: ScoreSpan, budget: int) -> Tensor:
        """Scores from the best down, head by head, those of whitelisted positions first: ``[kv_heads, n]``."""
        whole = Span(0, self.n, budget=budget)
        scores = score(whole)
        return scores.float().gather(-1, rank(scores, whole, self._must_stay))

    def _floor(self, budget: int) -> int:
        """Pairs that every head keeps: at least one if there is a safeguard."""
        safeguard = self._division.safeguard
        return max(self._n_whitelisted, floor_of(budget, safeguard), 1 if safeguard else 0)

    def _whitelisted_on(self, layer: Layer) -> Tensor | None:
        return None if self._must_stay is None else self._must_stay.on(layer.k.device)


def _merged(index: list[Tensor]) -> list[Tensor]:
    """One tensor for all heads if they keep equally many."""
    return [torch.cat(index)] if len({positions.shape[1] for positions in index}) == 1 else index
