"""Runs what a press replays against the full cache of a context, and collects what the context's keys receive.

A replay is one or more tails, each against the uncompressed context alone; none of them is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Backend, Options
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.context import Context
from fairkv_eval.engine.phases import Extend, Tail
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import attention_weights, block_rows
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import accepted
from fairkv_eval.eviction.replays import Ask


@dataclass(eq=False)
class ReplayTail(Tail):
    """A tail of one context's replay. ``received`` collects, layer by layer, the most attention that any of its
    queries gave each key of the context, by query head: float32 ``[heads, n]``."""

    received: list[Tensor] = field(default_factory=list)


class Replays:
    """The replays that variants of some contexts wait for; variants that differ in ratio, fairness or whitelist share
    one."""

    def __init__(self, contexts: Sequence[Context], ask: Ask | None) -> None:
        self._contexts = contexts
        self._tails: dict[tuple[Context, Hashable], list[ReplayTail]] = {}
        for context in contexts:
            for variant in context.replays:
                key = (context, _key(variant.policy))
                if key not in self._tails:
                    self._tails[key] = _tails(context, variant.policy, ask)

    @property
    def n_tokens(self) -> int:
        return sum(len(tail.tokens) for tails in self._tails.values() for tail in tails)

    def groups(self, max_tokens: int) -> Iterator[list[ReplayTail]]:
        """The tails of each forward pass: at least one, and as many as ``max_tokens`` allows."""
        group: list[ReplayTail] = []
        size = 0
        for tail in (tail for tails in self._tails.values() for tail in tails):
            if group and size + len(tail.tokens) > max_tokens:
                yield group
                group, size = [], 0
            group.append(tail)
            size += len(tail.tokens)
        if group:
            yield group

    def finish(self) -> None:
        """Evict by the attention that the replays collected, and drop the uncompressed pairs."""
        for context in self._contexts:
            for variant in context.replays:
                tails = self._tails[context, _key(variant.policy)]
                by_layer = zip(*(tail.received for tail in tails), strict=True)
                context.finish(variant, [torch.stack(received).amax(0) for received in by_layer])
            context.close_replays()


def _tails(context: Context, policy: Policy, ask: Ask | None) -> list[ReplayTail]:
    press = policy.press
    assert press is not None and press.replay is not None
    if ask is None:
        raise UsageError(f"press {press.name!r} replays the context, which needs a tokenizer")
    tails = press.replay(context.tokens, ask, **accepted(press.replay, policy.parameters))
    return [ReplayTail(tokens, context.full, continues=False) for tokens in tails]


def _key(policy: Policy) -> Hashable:
    """What decides a policy's replay: the function and its parameters."""
    press = policy.press
    assert press is not None and press.replay is not None
    return (press.replay, *accepted(press.replay, policy.parameters).items())


class Replay(Extend):
    """Tails of replays, packed, each against its own full context."""

    def __init__(self, tails: Sequence[ReplayTail], backend: Backend = SDPA) -> None:
        super().__init__(tails, backend=backend)
        self.replay_tails = tails

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`."""
        start = 0
        for tail in self.replay_tails:
            at = slice(start, start := start + len(tail.tokens))
            keys = torch.cat([tail.cache.layers[self.layer_index][0].plain().keys, k[0, :, at]], 1)
            tail.received.append(_most_received(q[0, :, at], keys, options))
        return super().attend(q, k, v, options)


def _most_received(q: Tensor, k: Tensor, options: Options) -> Tensor:
    """The most attention the last m of n tokens give each key before them, by query head: ``[heads, n - m]``."""
    m, n = q.shape[1], k.shape[1]
    most = torch.zeros(q.shape[0], n - m, device=k.device)
    rows = block_rows(q.shape[0], n)
    k = k.float()
    for first in range(0, m, rows):
        last = min(first + rows, m)
        weights = attention_weights(q[:, first:last], k[:, : n - m + last], options.scaling, options.softcap)
        most = torch.maximum(most, weights[:, :, : n - m].amax(1))
    return most
