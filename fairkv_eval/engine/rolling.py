"""Keeps a row within its decode budget: pairs of context, tail and answer are evicted while it decodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fairkv_eval.engine.cache import ContextCache, Pairs
from fairkv_eval.engine.survivors import check_rotation, consecutive, survivors
from fairkv_eval.errors import UsageError, naming
from fairkv_eval.eviction.layer import Layer, Span, attention_weights
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import taken
from fairkv_eval.eviction.quotas import rank


@dataclass
class _Held:
    """What is known of a layer's pairs beside keys and values, each ``[kv_heads, m]``.

    listed: whether the whitelist holds them. received: attention they have had, summed over queries and averaged over
    the heads of a group. seen: how many queries that were.
    """

    listed: Tensor
    received: Tensor
    seen: Tensor

    def extended(self, m: int) -> _Held:
        """With new pairs, so that there are m."""
        more = m - self.listed.shape[1]
        fields = (self.listed, self.received, self.seen)
        return _Held(*(torch.cat([old, old.new_zeros(len(old), more)], 1) for old in fields))

    def picked(self, index: Tensor) -> _Held:
        return _Held(*(old.gather(1, index) for old in (self.listed, self.received, self.seen)))


class _Unmoved:
    """The keys of a layer ``[kv_heads, m, dim]`` where they first stood, at ``positions`` ``[kv_heads, m]``.

    A key that moved from where it stands to where it goes at every eviction would be rounded at every eviction.
    """

    def __init__(self, keys: Tensor, stop: int) -> None:
        self.keys = keys.clone()
        self.positions = torch.arange(stop - keys.shape[1], stop, device=keys.device).repeat(len(keys), 1)

    def extend(self, keys: Tensor, stop: int) -> None:
        """With newer keys, the last at position stop − 1."""
        more = _Unmoved(keys, stop)
        self.keys = torch.cat([self.keys, more.keys], 1)
        self.positions = torch.cat([self.positions, more.positions], 1)

    def pick(self, index: Tensor) -> None:
        self.keys = self.keys.gather(1, index[:, :, None].expand(-1, -1, self.keys.shape[2]))
        self.positions = self.positions.gather(1, index)


class Rolling:
    """One row's budget: ``policy.decode_budget`` pairs a layer and head, looked after every ``decode_every`` tokens.

    cache: the row's context; whitelist: ranges of its tokens that must stay; ``label`` names the document in errors.
    ``due`` says whether the running step evicts. Between two such steps a row grows by ``decode_every`` pairs. Layers
    with a sliding window are cut to it. Rows whose keys move hold them a second time, as they first stood.
    """

    def __init__(
        self, policy: Policy, cache: ContextCache, whitelist: Sequence[tuple[int, int]], label: str = ""
    ) -> None:
        assert policy.press is not None and policy.decode_budget is not None
        self.press, self.parameters = policy.press, policy.parameters
        self.budget, self.every = policy.decode_budget, policy.decode_every
        self.moves = policy.positions == "contiguous"
        self.due = False
        self._steps = 0
        self.label = label
        self._position = cache.position
        self._unmoved: dict[int, _Unmoved] = {}
        listed = torch.zeros(cache.tokens, dtype=torch.bool)
        for start, stop in whitelist:
            listed[start:stop] = True
        if int(listed.sum()) > self.budget:
            raise UsageError(f"keep holds {int(listed.sum())} tokens, more than decode_budget={self.budget}")
        self._held = {
            layer: _Held(listed.to(index.device)[index], received, cache.tokens - index)
            for layer, (index, received) in cache.observed.items()
        }

    def begin_step(self, position: int) -> None:
        """Call once before each decode step, with the position of the token it runs."""
        self.due = self._steps % self.every == 0
        self._steps += 1
        self._position = position + 1

    @property
    def next_position(self) -> int:
        """Position of the token after this step."""
        return min(self._position, self.budget) if self.due and self.moves else self._position

    def begin_tail(self, tokens: int) -> None:
        """Call once before the row's tail runs."""
        self._position += tokens

    def observe(self, layer: Layer, window: int | None) -> None:
        """Take in a layer's newest pairs, the last of ``layer.k``, and their queries: q ``[heads, m, dim]``."""
        with naming(self.label, f"observing layer {layer.index} failed: "):
            if self.moves:
                self._keep_unmoved(layer)
            if window is None:
                self._hold(layer)

    def _keep_unmoved(self, layer: Layer) -> None:
        check_rotation(layer)
        unmoved = self._unmoved.get(layer.index)
        if unmoved is None:
            self._unmoved[layer.index] = _Unmoved(layer.k, self._position)
        else:
            unmoved.extend(layer.k[:, layer.k.shape[1] - layer.q.shape[1] :], self._position)

    def _hold(self, layer: Layer) -> None:
        n, m = layer.k.shape[1], layer.q.shape[1]
        held = self._held.get(layer.index) or _empty(layer)
        held = held.extended(n)
        if self.press.collects:
            weights = attention_weights(layer.q, layer.k, layer.scaling, layer.softcap)
            held.received = held.received + layer.per_kv_head(weights.sum(1))
        first_seen_by = torch.arange(n, device=layer.k.device).clamp(min=n - m)  # a new key by its own query
        held.seen = held.seen + (n - first_seen_by)
        self._held[layer.index] = held

    def evict(self, layer: Layer, window: int | None) -> Pairs | None:
        """What is left of a layer's pairs; None where none has to go."""
        if not self.due:
            return None
        with naming(self.label, f"evicting layer {layer.index} while decoding failed: "):
            return self._evict(layer, window)

    def _evict(self, layer: Layer, window: int | None) -> Pairs | None:
        m = layer.k.shape[1]
        moved = self.moves and self._position > self.budget
        if window is not None:
            index = torch.arange(max(0, m - window), m, device=layer.k.device).repeat(layer.kv_heads, 1)
        elif m > self.budget:
            index = self._choose(layer)
        else:
            return None
        if index.shape[1] == m and not moved:
            return None
        (pairs,) = survivors(layer, [index])
        if not self.moves:
            return pairs
        unmoved = self._unmoved[layer.index]
        unmoved.pick(index)
        if not moved:
            return pairs
        return consecutive(layer, Pairs(unmoved.keys, pairs.values), unmoved.positions, self.budget)

    def _choose(self, layer: Layer) -> Tensor:
        """Entries that stay, ascending: ``[kv_heads, budget]``."""
        assert self.press.decode is not None
        held, m = self._held[layer.index], layer.k.shape[1]
        seen_from = replace(layer, q=layer.q[:, -1:], received=held.received / held.seen)
        span = Span(0, m, budget=self.budget)
        scores = self.press.decode(seen_from, span, **taken(self.press.decode, self.parameters))
        # The whitelist goes before what the press protects.
        scores = scores.float().clamp(max=torch.finfo(torch.float32).max).masked_fill(held.listed, float("inf"))
        index = rank(scores, span, None)[:, : self.budget].sort(-1).values
        self._held[layer.index] = held.picked(index)
        return index


def _empty(layer: Layer) -> _Held:
    nothing = torch.zeros(layer.kv_heads, 0, device=layer.k.device)
    return _Held(nothing.bool(), nothing, nothing.long())
