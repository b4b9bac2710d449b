"""What a press may run against the full cache of a context before anything is evicted, and what its keys receive.

A replay is one or more tails, each against the uncompressed context alone; none of them is kept.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
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
from fairkv_eval.eviction.press import taken
from fairkv_eval.eviction.replays import Ask


@dataclass(eq=False)
class ReplayTail(Tail):
    """A tail of one context's replay. ``received`` collects, layer by layer, the most attention that any of its
    queries, in any head of a group, gave each key of the context: float32 ``[kv_heads, n]``."""

    received: list[Tensor] = field(default_factory=list)


Asked = dict[tuple[Context, Hashable], list[ReplayTail]]


def asked(contexts: Iterable[Context], ask: Ask | None) -> Asked:
    """The replays that variants of these contexts wait for, one for all that differ in ratio, fairness or whitelist."""
    found: Asked = {}
    for context in contexts:
        for variant in context.replays:
            press, key = variant.policy.press, _key(variant.policy)
            if (context, key) in found or press is None or press.replay is None:
                continue
            if ask is None:
                raise UsageError(f"press {press.name!r} replays the context, which needs a tokenizer")
            tails = press.replay(context.tokens, ask, **taken(press.replay, variant.policy.parameters))
            found[context, key] = [ReplayTail(tokens, context.full, False) for tokens in tails]
    return found


def finish(replays: Asked) -> None:
    """Evict by what the replays gave, and let go of the uncompressed pairs."""
    for context in dict.fromkeys(context for context, _ in replays):
        for variant in context.replays:
            tails = replays[context, _key(variant.policy)]
            layers = zip(*(tail.received for tail in tails), strict=True)
            context.finish(variant, [torch.stack(layer).amax(0) for layer in layers])
        context.close_replays()


def _key(policy: Policy) -> Hashable:
    press = policy.press
    return press and press.replay and (press.replay, *taken(press.replay, policy.parameters).items())


class Replay(Extend):
    """Tails of replays, packed, each against its own full context."""

    def __init__(self, tails: Sequence[ReplayTail], backend: Backend = SDPA) -> None:
        super().__init__(tails, backend=backend)
        self.replays = tails

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """Shapes as in `Prefill.attend`."""
        start = 0
        for tail in self.replays:
            at = slice(start, start := start + len(tail.tokens))
            keys = torch.cat([tail.cache.layers[self.layer][0].keys, k[0, :, at]], 1)
            tail.received.append(_most(q[0, :, at], keys, scaling, options.softcap))
        return super().attend(q, k, v, scaling, options)


def _most(q: Tensor, k: Tensor, scaling: float, softcap: float | None) -> Tensor:
    """The most attention the last m of n tokens give each key before them: ``[kv_heads, n - m]``."""
    m, n = q.shape[1], k.shape[1]
    most = torch.zeros(k.shape[0], n - m, device=k.device)
    rows = block_rows(q.shape[0], n)
    k = k.float()
    for first in range(0, m, rows):
        last = min(first + rows, m)
        weights = attention_weights(q[:, first:last], k[:, : n - m + last], scaling, softcap)
        most = torch.maximum(most, weights[:, :, : n - m].amax(1).unflatten(0, (k.shape[0], -1)).amax(1))
    return most
