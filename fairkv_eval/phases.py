"""The three ways a model runs: contexts in, tails against what is left of them, one token more for every row.

Each phase is the ``kv`` of one forward pass over a packed sequence ``[1, total]`` and sees its layers in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from fairkv_eval.attention import Options, causal, masked
from fairkv_eval.cache import ContextCache, RowCache
from fairkv_eval.errors import RequestError, UsageError
from fairkv_eval.evict import check_keep, kept, n_kept, ranges
from fairkv_eval.press import Policy
from fairkv_eval.prompt import Segment
from fairkv_eval.scores import Layer


class Variant(NamedTuple):
    """One way to evict from a context: a policy, and the segments it is fair to."""

    policy: Policy
    segments: tuple[Segment, ...]


@dataclass(eq=False)
class Context:
    """A context to prefill once, with a cache for each variant wanted of it. ``label`` names it in errors; ``seed``
    is drawn from its tokens."""

    tokens: tuple[int, ...]
    label: str
    seed: int = 0
    caches: dict[Variant, ContextCache] = field(default_factory=dict)


class Prefill:
    """Contexts run uncompressed, packed one after another; after a layer's attention its KV pairs are evicted."""

    def __init__(self, contexts: Sequence[Context], layers: int) -> None:
        self.contexts = contexts
        self.layers = layers
        self.layer = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """q ``[1, heads, total, dim]``, k and v ``[1, kv_heads, total, dim]`` to ``[1, total, heads, dim]``."""
        outputs, start = [], 0
        for context in self.contexts:
            at = slice(start, start := start + len(context.tokens))
            own = q[0, :, at], k[0, :, at], v[0, :, at]
            outputs.append(causal(*own, scaling, options))
            layer = Layer(*own, scaling, self.layer, self.layers, context.seed, options.softcap)
            for variant, cache in context.caches.items():
                try:
                    _store(layer, variant, cache, options.window)
                except UsageError as error:
                    raise UsageError(f"{context.label}: {error}") from error
                except Exception as error:
                    raise RequestError(f"{context.label}: evicting layer {self.layer} failed: {error}") from error
        self.layer += 1
        return torch.cat(outputs, 1).transpose(0, 1)[None]


@dataclass(eq=False)
class Tail:
    """Tokens that follow a context: never evicted. ``keys`` and ``values`` collect theirs where the row goes on."""

    tokens: Sequence[int]
    cache: ContextCache
    goes_on: bool
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)


class Extend:
    """Tails, packed one after another, each against its own compressed context."""

    def __init__(self, tails: Sequence[Tail]) -> None:
        self.tails = tails
        self.layer = 0

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """Shapes as in `Prefill.attend`."""
        outputs, start = [], 0
        for tail in self.tails:
            at = slice(start, start := start + len(tail.tokens))
            keys, values = k[0, :, at], v[0, :, at]
            if tail.cache.tokens:
                keys = torch.cat([tail.cache.keys[self.layer], keys], 1)
                values = torch.cat([tail.cache.values[self.layer], values], 1)
            outputs.append(causal(q[0, :, at], keys, values, scaling, options))
            if tail.goes_on:
                tail.keys.append(keys)
                tail.values.append(values)
        self.layer += 1
        return torch.cat(outputs, 1).transpose(0, 1)[None]


class Decode:
    """One token for every row of the running batch, packed in row order."""

    def __init__(self, cache: RowCache) -> None:
        self.cache = cache
        self.layer = 0
        cache.begin_step()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """Shapes as in `Prefill.attend`, total being the number of rows."""
        rows, kv_heads = q.shape[2], k.shape[1]
        keys, values, mask = self.cache.append(self.layer, k[0].transpose(0, 1), v[0].transpose(0, 1), options)
        self.layer += 1
        # The query heads of a group stand as queries of their KV head, so no key is repeated.
        grouped = q[0].transpose(0, 1).reshape(rows, kv_heads, -1, q.shape[-1])
        return masked(grouped, keys, values, scaling, mask, options.softcap).reshape(1, rows, -1, v.shape[-1])


def _store(layer: Layer, variant: Variant, cache: ContextCache, window: int | None) -> None:
    """Put what survives of one layer of one context into its cache."""
    n = layer.k.shape[1]
    held = n if window is None else min(n, window)
    if window is not None or not variant.policy.evicts:
        # A sliding window forgets by itself: it keeps its window and is not compressed.
        k, v = layer.k[:, n - held :].clone(), layer.v[:, n - held :].clone()
    else:
        k, v = _evict(layer, variant, cache)
    cache.keys.append(k)
    cache.values.append(v)
    cache.full_bytes += held * (k.shape[0] * k.shape[2] * k.element_size() + v.shape[0] * v.shape[2] * v.element_size())
    cache.full_pairs += held * k.shape[0]


def _evict(layer: Layer, variant: Variant, cache: ContextCache) -> tuple[Tensor, Tensor]:
    """Keys and values ``[kv_heads, kept, dim]`` that survive in one layer."""
    policy, segments = variant
    n = layer.k.shape[1]
    budget = n_kept(n, policy.ratio)
    keep = _whitelist(segments, policy.keep, n, layer.k.device)
    if keep is not None:
        check_keep(int(keep.sum()), n, budget)
    spans = ranges([segment.start for segment in segments], n)
    index = kept(policy.scorer(layer), spans, budget, policy.fair, keep)
    for segment in segments:
        inside = int(((index >= segment.start) & (index < segment.stop)).sum())
        cache.segment_kept[segment.name] = cache.segment_kept.get(segment.name, 0) + inside
    cache.slots += layer.kv_heads
    return _pick(layer.k, index), _pick(layer.v, index)


def _pick(entries: Tensor, index: Tensor) -> Tensor:
    """The entries at these positions, head by head: ``[kv_heads, n, dim]`` and ``[kv_heads, kept]``."""
    return entries.gather(1, index[:, :, None].expand(-1, -1, entries.shape[2]))


def _whitelist(segments: Sequence[Segment], names: Sequence[str], n: int, device: torch.device) -> Tensor | None:
    if not names:
        return None
    keep = torch.zeros(n, dtype=torch.bool, device=device)
    for segment in segments:
        if segment.name in names:
            keep[segment.start : segment.stop] = True
    return keep
