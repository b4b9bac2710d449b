"""What one policy keeps of one context: spans, whitelist and budgets are worked out once, the choice layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import Layer, Span
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.quotas import check_keep, kept, kept_by_head, plain_ranking, pooled, ranges
from fairkv_eval.prompts.prompt import Segment
from fairkv_eval.prompts.whitelist import whitelist


class Plan:
    """A policy that evicts, on a context of n tokens and its segments.

    layers: indices of the layers that evict (those with a sliding window do not). marks: named token ranges besides the
    segments, for the whitelist. Raises UsageError where the whitelist does not fit its budget.
    """

    def __init__(
        self, policy: Policy, segments: Sequence[Segment], n: int, layers: Sequence[int], marks: Sequence[Segment] = ()
    ) -> None:
        self.policy = policy
        self.segments = segments
        self.n = n
        self.budget = policy.n_kept(n)
        self.spans = ranges([segment.start for segment in segments], n)
        self.keep = _mask(whitelist(segments, marks, policy.keep, n), n)
        listed = 0 if self.keep is None else int(self.keep.sum())
        check_keep(listed, n, self.budget, by_ratio=policy.budget is None)
        self._division = policy.division
        self._budgets = dict(zip(layers, self._division.layers(n, self.budget, len(layers), listed), strict=True))
        self._listed = listed
        self._by_head: dict[int, list[int]] = {}
        self._counts = torch.zeros(n, dtype=torch.int64)
        self._slots = 0

    def kept(self, layer: Layer) -> list[Tensor]:
        """Kept positions of one layer, ascending: one int64 ``[kv_heads, m]``, or ``[1, m_h]`` for each head where they
        differ in number."""
        score = cache(self.policy.scorer(layer))
        budget = self._budgets[layer.index]
        keep = None if self.keep is None else self.keep.to(layer.k.device)
        fair = self.policy.fair
        if not self._division.pooled:
            chosen = [kept(score, self.spans, budget, fair, keep)]
        else:
            if self._division.pooled == "layer":
                worth = _worth(score(Span(0, self.n, budget=budget)), budget, keep)
                self._by_head[layer.index] = pooled(worth, layer.kv_heads * budget, self._floor(budget))
            chosen = kept_by_head(score, self.spans, self._by_head[layer.index], fair, keep)
        self._count(chosen)
        return _merged(chosen)

    def divide(self, layers: Sequence[Layer]) -> None:
        """Let all heads of these layers compete for the model's budget where the policy says so, before `kept`."""
        if self._division.pooled != "model" or not layers:
            return
        worth = []
        for layer in layers:
            keep = None if self.keep is None else self.keep.to(layer.k.device)
            whole = Span(0, self.n, budget=self.budget)
            worth.append(_worth(self.policy.scorer(layer)(whole), self.budget, keep).to(layers[0].k.device))
        counts = pooled(torch.cat(worth), sum(len(w) for w in worth) * self.budget, self._floor(self.budget))
        for layer in layers:
            self._by_head[layer.index], counts = counts[: layer.kv_heads], counts[layer.kv_heads :]

    def segment_rates(self) -> dict[str, float]:
        """The part of each segment's pairs that was kept, over the layers and heads asked for so far."""
        lengths: dict[str, int] = {}
        counts: dict[str, int] = {}
        for name, start, stop in self.segments:
            lengths[name] = lengths.get(name, 0) + stop - start
            counts[name] = counts.get(name, 0) + int(self._counts[start:stop].sum())
        return {name: counts[name] / (self._slots * n) if self._slots * n else 1.0 for name, n in lengths.items()}

    def _floor(self, budget: int) -> int:
        """Pairs that no head goes below: at least one where there is a safeguard."""
        safeguard = self._division.safeguard
        return max(self._listed, int(safeguard * budget + 1e-6), 1 if safeguard else 0)

    def _count(self, chosen: Sequence[Tensor]) -> None:
        self._counts = self._counts.to(chosen[0].device)
        for index in chosen:
            self._counts += torch.bincount(index.flatten(), minlength=self.n)
            self._slots += len(index)


def _mask(listed: Sequence[tuple[int, int]], n: int) -> Tensor | None:
    if not listed:
        return None
    keep = torch.zeros(n, dtype=torch.bool)
    for start, stop in listed:
        keep[start:stop] = True
    return keep


def _worth(scores: Tensor, budget: int, keep: Tensor | None) -> Tensor:
    """Scores from the best down, head by head, those of whitelisted positions first: ``[kv_heads, n]``."""
    order = plain_ranking(lambda span: scores, scores.shape[-1], budget, keep)
    return scores.float().gather(-1, order)


def _merged(chosen: list[Tensor]) -> list[Tensor]:
    """One tensor for all heads where they keep equally many."""
    return [torch.cat(chosen)] if len({index.shape[1] for index in chosen}) == 1 else chosen
