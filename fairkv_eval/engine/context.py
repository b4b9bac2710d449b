"""A context that is prefilled once, and everything that is wanted of its KV pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fairkv_eval.engine.cache import ContextCache, Pairs
from fairkv_eval.engine.survivors import consecutive, survivors
from fairkv_eval.errors import naming
from fairkv_eval.eviction.keep_rates import KeepRates
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.segments import Segment


class Variant(NamedTuple):
    """One way to evict from a context: a policy, the segments it is fair to, and what else its whitelist may name."""

    policy: Policy
    segments: tuple[Segment, ...] = ()
    marks: tuple[Segment, ...] = ()


class Watcher(Protocol):
    """Sees a context's layers as they are computed, in order, and what is kept of each."""

    def computed(self, layer: Layer, window: int | None) -> None: ...

    def kept(self, layer: Layer, index: Sequence[Tensor]) -> None:
        """index: kept positions as `Plan.choose` returns them."""


class Context:
    """The tokens of a context, and a cache for each variant wanted of it.

    ``label`` names it in errors; ``seed`` is drawn from its tokens. windows: the sliding window of each layer, or None.
    Variants that score by a replay are evicted when that has run; until then ``full`` holds every pair. ``watcher``:
    who looks on, if anybody does.
    """

    watcher: Watcher | None = None

    def __init__(
        self,
        tokens: tuple[int, ...],
        label: str,
        variants: Iterable[Variant] = (),
        windows: Sequence[int | None] = (),
        seed: int = 0,
    ) -> None:
        self.tokens = tokens
        self.label = label
        self.seed = seed
        self.caches = {variant: ContextCache(len(tokens)) for variant in variants}
        self.full = ContextCache(len(tokens))
        self._waiting: list[tuple[Layer, int | None]] = []
        self._plans: dict[Variant, Plan] = {}
        self._rates = {variant: KeepRates(variant.segments, len(tokens)) for variant in self.caches}
        evicting = [layer for layer, window in enumerate(windows) if window is None]
        for variant in self.caches if tokens else ():
            with naming(self.label):
                if variant.policy.evicts:
                    self._plans[variant] = Plan(variant.policy, variant.segments, len(tokens), evicting, variant.marks)

    @property
    def replays(self) -> list[Variant]:
        """Variants that wait for a replay."""
        return [variant for variant in self._plans if _replays(variant)]

    def store(self, layer: Layer, window: int | None) -> None:
        """Put what survives of one layer into each cache; layers come in order."""
        if self.watcher:
            self.watcher.computed(layer, window)
        if self.replays:
            pairs = Pairs(layer.k.clone(), layer.v.clone())
            self.full.layers.append([pairs])
            queries = layer.q.new_empty(layer.q.shape[0], 0, layer.q.shape[2])  # a replay has queries of its own
            self._waiting.append((replace(layer, q=queries, k=pairs.keys, v=pairs.values), window))
        for variant in self.caches:
            if variant not in self._plans or not _replays(variant):
                self._evict(variant, layer, window)

    def finish(self, variant: Variant, replayed: Sequence[Tensor]) -> None:
        """Evict for a variant whose replay gave the keys of each layer this much attention: ``[kv_heads, n]``."""
        layers = [(replace(layer, replayed=r), w) for (layer, w), r in zip(self._waiting, replayed, strict=True)]
        with naming(self.label, "dividing the budget failed: "):
            self._plans[variant].divide([layer for layer, window in layers if window is None])
        for layer, window in layers:
            self._evict(variant, layer, window)

    def close_replays(self) -> None:
        """Drop the uncompressed pairs."""
        self.full.layers.clear()
        self._waiting.clear()

    def _evict(self, variant: Variant, layer: Layer, window: int | None) -> None:
        cache, plan = self.caches[variant], self._plans.get(variant)
        with naming(self.label, f"evicting layer {layer.index} failed: "):
            n = held = layer.k.shape[1]
            if window is not None:  # a sliding window forgets by itself: it keeps its window and is not compressed
                held = min(n, window)
            if window is None and plan is not None:
                index = plan.choose(layer)
                self._rates[variant].count(index)
            else:
                index = [torch.arange(n - held, n, device=layer.k.device).expand(layer.kv_heads, -1)]
            if self.watcher:
                self.watcher.kept(layer, index)
            pairs = survivors(layer, index)
            if plan is not None and variant.policy.positions == "contiguous":
                cache.position = plan.budget
                pairs = [consecutive(layer, own, at, plan.budget) for own, at in zip(pairs, index, strict=True)]
            if variant.policy.decode_budget is not None and window is None:
                self._observe(variant, layer, torch.cat(index))
        cache.layers.append(pairs)
        cache.full_bytes += held * _entry_bytes(layer)
        cache.full_pairs += held * layer.kv_heads
        if plan is not None and layer.index == layer.count - 1:
            cache.segments = self._rates[variant].by_segment()

    def _observe(self, variant: Variant, layer: Layer, index: Tensor) -> None:
        """Note positions of the kept pairs, and attention received, both ``[kv_heads, m]``, for a decode budget."""
        press = variant.policy.press
        collects = press is not None and press.collects
        n = layer.k.shape[1]
        had = torch.zeros(index.shape, device=index.device)
        if collects:
            had = layer.per_kv_head(layer.column_sums(0, n)).gather(1, index)
        self.caches[variant].observed[layer.index] = index, had


def _replays(variant: Variant) -> bool:
    return variant.policy.press is not None and variant.policy.press.replay is not None


def _entry_bytes(layer: Layer) -> int:
    """Bytes of one token's keys and values in all heads."""
    return sum(t.shape[0] * t.shape[2] * t.element_size() for t in (layer.k, layer.v))
