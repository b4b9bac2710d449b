"""Keeps a row within its decode budget: pairs of context, tail and answer are evicted while it decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.engine.survivors import check_rotation, consecutive, survivors
from fairkv_eval.errors import UsageError, naming
from fairkv_eval.eviction.layer import Layer, Span, attention_weights
from fairkv_eval.eviction.merging import Merged, merge, merge_cam
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import accepted
from fairkv_eval.eviction.quotas import numbers, rank
from fairkv_eval.eviction.read_only import read_only
from fairkv_eval.storage.pairs import Pairs


class DecodeBudget:
    """One row's budget: ``policy.decode_budget`` pairs per layer and head, enforced every ``decode_every`` tokens.

    cache: the row's context; whitelist: ranges of its tokens that must stay; ``label`` names the document in errors.
    ``seed`` decides its draws. ``due`` says whether the running step evicts. Between two such steps a row grows by
    ``decode_every`` pairs. Layers with a sliding window are cut to it. Rows whose keys move hold a second copy of them,
    at their first positions. ``evicted_pairs`` counts what was evicted, ``merged_pairs`` what of that was merged.
    """

    def __init__(
        self,
        policy: Policy,
        cache: ContextCache,
        whitelist: Sequence[tuple[int, int]],
        label: str = "",
        seed: int = 0,
    ) -> None:
        assert policy.press is not None and policy.decode_budget is not None
        self.press, self.parameters = policy.press, policy.parameters
        self.merge, self.collects, self.seed = policy.merge, policy.collects, seed
        self.evicted_pairs = self.merged_pairs = 0
        self.budget, self.every = policy.decode_budget, policy.decode_every
        self.moves = policy.positions == "contiguous"
        self.label = label
        self.due = False
        self._n_steps = 0
        self._position = cache.position
        self._first_keys: dict[int, _FirstKeys] = {}
        self._thresholds = dict(cache.thresholds)
        whitelisted = torch.zeros(cache.n_tokens, dtype=torch.bool)
        for start, stop in whitelist:
            whitelisted[start:stop] = True
        if int(whitelisted.sum()) > self.budget:
            raise UsageError(f"keep holds {int(whitelisted.sum())} tokens, more than decode_budget={self.budget}")
        self._history = {
            index: _History(whitelisted.to(at.device)[at], attention, cache.n_tokens - at)
            for index, (at, attention) in cache.received.items()
        }

    def begin_step(self, position: int) -> None:
        """Call once before each decode step, with the position of the token it runs."""
        self.due = self._n_steps % self.every == 0
        self._n_steps += 1
        self._position = position + 1

    @property
    def next_position(self) -> int:
        """Position of the token after this step."""
        return min(self._position, self.budget) if self.due and self.moves else self._position

    def begin_tail(self, n_tokens: int) -> None:
        """Call once before the row's tail runs."""
        self._position += n_tokens

    def receive(self, layer: Layer, window: int | None) -> None:
        """Take in a layer's newest pairs, the last of ``layer.k``, and the attention that pairs received from their
        queries: q ``[heads, m, dim]``."""
        with naming(self.label, f"collecting attention in layer {layer.index} failed: "):
            if self.moves:
                self._add_first_keys(layer)
            if window is None:
                self._add_history(layer)

    def _add_first_keys(self, layer: Layer) -> None:
        check_rotation(layer)
        n, m = layer.k.shape[1], layer.q.shape[1]
        if layer.index in self._first_keys:
            self._first_keys[layer.index].extend(layer.k[:, n - m :], self._position)
        else:
            self._first_keys[layer.index] = _FirstKeys(layer.k, self._position)

    def _add_history(self, layer: Layer) -> None:
        n, m = layer.k.shape[1], layer.q.shape[1]
        history = (self._history.get(layer.index) or _History.empty(layer)).extended(n)
        if self.collects:
            weights = attention_weights(layer.q, layer.k, layer.scaling, layer.softcap)
            history.received = history.received + layer.per_kv_head(weights.sum(1))
        first_query = torch.arange(n, device=layer.k.device).clamp(min=n - m)  # a new key's own query is its first
        history.n_queries = history.n_queries + (n - first_query)
        self._history[layer.index] = history

    def evict(self, layer: Layer, window: int | None) -> Pairs | None:
        """The pairs that a layer keeps; None if it keeps all of them."""
        if not self.due:
            return None
        with naming(self.label, f"evicting layer {layer.index} while decoding failed: "):
            return self._evict(layer, window)

    def _evict(self, layer: Layer, window: int | None) -> Pairs | None:
        m, merged = layer.k.shape[1], layer
        moved = self.moves and self._position > self.budget
        if window is not None:
            index = torch.arange(max(0, m - window), m, device=layer.k.device).repeat(layer.kv_heads, 1)
        elif m > self.budget:
            index, merged = self._choose(layer)
        else:
            return None
        if index.shape[1] == m and not moved:
            return None
        (pairs,) = survivors(merged, [index])
        if not self.moves:
            return pairs
        first_keys = self._first_keys[layer.index]
        if merged.k is not layer.k:
            first_keys.take_in(merged.k, layer.k, self._position, check_rotation(layer))
        first_keys.pick(index)
        if not moved:
            return pairs
        return consecutive(layer, Pairs(first_keys.keys, pairs.values), first_keys.positions, self.budget)

    def _choose(self, layer: Layer) -> tuple[Tensor, Layer]:
        """Entries that stay, ascending: ``[kv_heads, budget]``; and the layer with the others merged into them."""
        assert self.press.decode is not None
        history, span = self._history[layer.index], Span(0, layer.k.shape[1], budget=self.budget)
        newest = self.press.informed(layer)
        newest = replace(newest, q=newest.q[:, -1:], received=history.received / history.n_queries)
        with read_only(self.press.name):
            scores = self.press.decode(newest, span, **accepted(self.press.decode, self.parameters))
        # The whitelist goes before what the press protects.
        scores = scores.float().clamp(max=torch.finfo(torch.float32).max)
        scores = scores.masked_fill(history.whitelisted, float("inf"))
        ranking = rank(numbers(scores), span)
        index = ranking[:, : self.budget].sort(-1).values
        merged = self._merged(layer, index, ranking[:, self.budget :][:, : self.every])
        self.evicted_pairs += layer.kv_heads * (len(span) - self.budget)
        self.merged_pairs += merged.n_pairs
        self._history[layer.index] = history.picked(index)
        return index, merged.layer

    def _merged(self, layer: Layer, index: Tensor, best_evicted: Tensor) -> Merged:
        """The layer with what is evicted merged into what stays, as the policy says. best_evicted: what cam may merge,
        as many as tokens come between two evictions."""
        history = self._history[layer.index]
        if self.merge == "cam":
            noise = self._noise(layer, best_evicted.shape)
            candidates = best_evicted.sort(-1).values
            return merge_cam(layer, index, history.whitelisted, candidates, history.received, noise)
        span, before = Span(0, layer.k.shape[1]), self._thresholds.get(layer.index)
        merged = merge(self.merge, layer, [index], [span], history.whitelisted, before)
        if merged.thresholds is not None:
            self._thresholds[layer.index] = merged.thresholds
        return merged

    def _noise(self, layer: Layer, shape: torch.Size) -> Tensor:
        """Uniform noise in [0, 1): a function of the seed, the layer and the step."""
        generator = torch.Generator().manual_seed(hash((self.seed, layer.index, self._n_steps)) & (2**63 - 1))
        return torch.rand(shape, generator=generator).to(layer.k.device)


@dataclass
class _History:
    """What a layer's pairs have seen of the row so far, each ``[kv_heads, m]``.

    whitelisted: whether they must stay. received: the attention they got, summed over queries and averaged over the
    heads of a group. n_queries: from how many queries.
    """

    whitelisted: Tensor
    received: Tensor
    n_queries: Tensor

    @classmethod
    def empty(cls, layer: Layer) -> _History:
        nothing = torch.zeros(layer.kv_heads, 0, device=layer.k.device)
        return cls(nothing.bool(), nothing, nothing.long())

    def extended(self, m: int) -> _History:
        """With new pairs, so that there are m."""
        n_new = m - self.whitelisted.shape[1]
        fields = (self.whitelisted, self.received, self.n_queries)
        return _History(*(torch.cat([old, old.new_zeros(len(old), n_new)], 1) for old in fields))

    def picked(self, index: Tensor) -> _History:
        return _History(*(old.gather(1, index) for old in (self.whitelisted, self.received, self.n_queries)))


class _FirstKeys:
    """The keys of a layer ``[kv_heads, m, dim]`` as they first stood, at ``positions`` ``[kv_heads, m]``.

    Keys that were turned from one place to the next at every eviction would be rounded at every eviction.
    """

    def __init__(self, keys: Tensor, stop: int) -> None:
        self.keys = keys.clone()
        self.positions = torch.arange(stop - keys.shape[1], stop, device=keys.device).repeat(len(keys), 1)

    def extend(self, keys: Tensor, stop: int) -> None:
        """Add newer keys, the last of them at position stop − 1."""
        newer = _FirstKeys(keys, stop)
        self.keys = torch.cat([self.keys, newer.keys], 1)
        self.positions = torch.cat([self.positions, newer.positions], 1)

    def take_in(self, merged: Tensor, before: Tensor, stop: int, rotation: Rotation) -> None:
        """Replace the keys that a merge has changed: both ``[kv_heads, m, dim]`` as they stand now, up to stop − 1."""
        now = torch.arange(stop - merged.shape[1], stop, device=merged.device)
        changed = (merged != before).any(-1, keepdim=True)
        self.keys = rotation.rotate(merged, self.positions - now).where(changed, self.keys)

    def pick(self, index: Tensor) -> None:
        self.keys = self.keys.gather(1, index[:, :, None].expand(-1, -1, self.keys.shape[2]))
        self.positions = self.positions.gather(1, index)
