"""A context that is prefilled once, whatever number of policies evict from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from fairkv_eval.engine.cache import ContextCache, LayerPairs, Received
from fairkv_eval.engine.survivors import consecutive, survivors
from fairkv_eval.errors import naming
from fairkv_eval.eviction.keep_rates import KeepRates
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.storage.channels import channel_votes
from fairkv_eval.storage.pairs import Pairs, store
from fairkv_eval.storage.room import Entry


class Variant(NamedTuple):
    """One way to evict from a context: a policy, the segments it is fair to, what else its whitelist may name, and what
    is asked after the context, for presses that score by that."""

    policy: Policy
    segments: tuple[Segment, ...] = ()
    marks: tuple[Segment, ...] = ()
    question: tuple[int, ...] = ()

    @property
    def replays(self) -> bool:
        """Whether its press scores by a replay."""
        return self.policy.press is not None and self.policy.press.replay is not None

    @property
    def waits(self) -> bool:
        """Whether it evicts only after the last layer: after a replay, or by what all layers score."""
        return self.replays or self.policy.division.pooled == "model"


class Watcher(Protocol):
    """Sees a context's layers as they are computed, in order, and what is kept of each."""

    def computed(self, layer: Layer, window: int | None) -> None: ...

    def kept(self, layer: Layer, index: Sequence[Tensor]) -> None:
        """index: kept positions as `Plan.choose` returns them."""


class Context:
    """The tokens of a context, and a cache for each variant of its eviction.

    A prefill calls `store` for each layer in order, which evicts. Variants that wait are evicted after the last layer,
    until which all uncompressed pairs are held (with their queries, unless a replay has its own). Variants that replay
    wait longer: `replays` names them, `finish` evicts for each, and `close_replays` drops the uncompressed pairs in
    ``full``, to which replays attend. ``label`` names the context in errors; ``seed`` is drawn from its tokens.
    windows: the sliding window of each layer, or None. watcher: a spectator, if there is one. entries: what a token
    adds to each layer, for budgets in bytes.
    """

    def __init__(
        self,
        tokens: tuple[int, ...],
        label: str,
        variants: Iterable[Variant] = (),
        windows: Sequence[int | None] = (),
        seed: int = 0,
        watcher: Watcher | None = None,
        entries: Sequence[Entry] = (),
    ) -> None:
        self.tokens = tokens
        self.label = label
        self.seed = seed
        self.watcher = watcher
        self.caches = {v: ContextCache(len(tokens), storage=v.policy.storage) for v in variants}
        self.full = ContextCache(len(tokens))
        self.held_back: list[tuple[Layer, int | None]] = []  # layers for variants that wait
        evicting = [layer for layer, window in enumerate(windows) if window is None]
        with naming(label):
            self._plans = {
                variant: Plan(variant.policy, variant.segments, len(tokens), evicting, variant.marks, entries)
                for variant in self.caches
                if tokens and variant.policy.evicts
            }
            for variant in self.caches.keys() - self._plans.keys():
                variant.policy.n_kept(len(tokens), entries)  # UsageError if that is fewer pairs than there are
        self._rates = {variant: KeepRates(variant.segments, len(tokens)) for variant in self._plans}

    @property
    def replays(self) -> list[Variant]:
        """Variants that wait for a replay."""
        return [variant for variant in self._plans if variant.replays]

    def store(self, layer: Layer, window: int | None) -> None:
        """Put what survives of one layer into each cache; layers come in order."""
        if self.watcher:
            self.watcher.computed(layer, window)
        waiting = [variant for variant in self._plans if variant.waits]
        at_once = [variant for variant in waiting if not variant.replays]  # that is, after the last layer
        if waiting:
            self._hold_back(layer, window, len(self.tokens) if at_once else max(map(self._observers, waiting)))
        for variant in self.caches:
            if variant not in waiting:
                self._evict(variant, layer, window)
        if layer.index == layer.count - 1:
            for variant in at_once:
                self._evict_all(variant, self.held_back)

    def _observers(self, variant: Variant) -> int:
        """How many of the last queries choose a variant's key channels."""
        storage = variant.policy.storage
        return 0 if not storage.pruned else len(self.tokens) if variant.policy.fair else storage.observers

    def finish(self, variant: Variant, replayed: Sequence[Tensor]) -> None:
        """Evict for a variant whose replay gave the keys of each layer this much attention: ``[heads, n]``."""
        layers = [
            (replace(layer, replayed=layer.most_per_kv_head(most), replayed_by_query_head=most), window)
            for (layer, window), most in zip(self.held_back, replayed, strict=True)
        ]
        self._evict_all(variant, layers)

    def _hold_back(self, layer: Layer, window: int | None, n_queries: int) -> None:
        """Hold a layer's pairs and last queries."""
        pairs = Pairs(layer.k.clone(), layer.v.clone())
        self.full.layers.append([pairs])
        queries = layer.q[:, max(0, layer.q.shape[1] - n_queries) :].clone()
        self.held_back.append((replace(layer, q=queries, k=pairs.keys, v=pairs.values), window))

    def _evict_all(self, variant: Variant, layers: Sequence[tuple[Layer, int | None]]) -> None:
        with naming(self.label, "dividing the budget failed: "):
            self._plans[variant].divide([layer for layer, window in layers if window is None])
        for layer, window in layers:
            self._evict(variant, layer, window)

    def close_replays(self) -> None:
        """Drop the uncompressed pairs."""
        self.full.layers.clear()
        self.held_back.clear()

    def _evict(self, variant: Variant, layer: Layer, window: int | None) -> None:
        """Add to a variant's cache what it keeps of one layer."""
        cache = self.caches[variant]
        with naming(self.label, f"evicting layer {layer.index} failed: "):
            index = self._choose(variant, layer, window)
            if self.watcher:
                self.watcher.kept(layer, index)
            kept = self._survivors(variant, self._merged(variant, layer, window, index), index)
            cache.layers.append(self._stored(variant, layer, window, kept))
            if variant.policy.decode_budget is not None and window is None:
                cache.received[layer.index] = _received(variant.policy, layer, torch.cat(index))
        held = _held(layer, window)
        cache.full_bytes += held * _entry_bytes(layer)
        cache.full_pairs += held * layer.kv_heads
        if layer.index == layer.count - 1 and variant in self._plans:
            with naming(self.label):
                self._plans[variant].check()
            cache.keep_rates = self._rates[variant].by_segment()

    def _stored(self, variant: Variant, layer: Layer, window: int | None, kept: Sequence[Pairs]) -> LayerPairs:
        """A layer's kept pairs as the variant holds them. A sliding window holds all key channels; elsewhere the last
        queries choose them, under fair eviction those of every segment."""
        storage, n = variant.policy.storage, layer.q.shape[1]
        if window is not None or not storage.pruned:
            return [store(storage.all_channels, pairs) for pairs in kept]
        fair = variant.policy.fair and variant in self._plans
        ranges = [(span.start, span.stop) for span in self._plans[variant].spans] if fair else [(0, n)]
        votes = channel_votes(layer.q, layer.kv_heads, ranges, storage.observers)
        parts = zip(kept, votes.split([pairs.heads for pairs in kept]), strict=True)
        return [store(storage, *part) for part in parts]

    def _choose(self, variant: Variant, layer: Layer, window: int | None) -> list[Tensor]:
        """Kept positions as from `Plan.choose`. A sliding window forgets by itself: it is kept and not compressed."""
        if window is None and variant in self._plans:
            index = self._plans[variant].choose(layer)
            self._rates[variant].count(index)
            return index
        n, held = layer.k.shape[1], _held(layer, window)
        return [torch.arange(n - held, n, device=layer.k.device).expand(layer.kv_heads, -1)]

    def _merged(self, variant: Variant, layer: Layer, window: int | None, index: Sequence[Tensor]) -> Layer:
        """The layer with what is evicted merged into what is kept; a sliding window only forgets."""
        if window is not None or variant not in self._plans:
            return layer
        merged, cache = self._plans[variant].merge(layer, index), self.caches[variant]
        cache.merged_pairs += merged.n_pairs
        if merged.thresholds is not None:
            cache.thresholds[layer.index] = merged.thresholds
        return merged.layer

    def _survivors(self, variant: Variant, layer: Layer, index: Sequence[Tensor]) -> list[Pairs]:
        pairs = survivors(layer, index)
        if variant not in self._plans or variant.policy.positions != "contiguous":
            return pairs
        stop = self.caches[variant].position = self._plans[variant].budget
        return [consecutive(layer, part, at, stop) for part, at in zip(pairs, index, strict=True)]


def _received(policy: Policy, layer: Layer, index: Tensor) -> Received:
    """What the kept pairs ``[kv_heads, m]`` of a layer received, if the policy collects that; else zeros."""
    if not policy.collects:
        return Received(index, torch.zeros(index.shape, device=index.device))
    return Received(index, layer.per_kv_head(layer.column_sums(0, layer.k.shape[1])).gather(1, index))


def _held(layer: Layer, window: int | None) -> int:
    """Pairs that a head of the layer holds without eviction."""
    n = layer.k.shape[1]
    return n if window is None else min(n, window)


def _entry_bytes(layer: Layer) -> int:
    """Bytes of one token's keys and values in all heads."""
    return sum(t.shape[0] * t.shape[2] * t.element_size() for t in (layer.k, layer.v))
