"""Runs what a press replays against the full cache of a context, and collects what the context's keys receive.

A replay is one or more tails, each against the uncompressed context alone; none of them is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from fairkv_eval.attention.backend import Backend, Options
from fairkv_eval.attention.inputs import watched
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.context import Context, Variant
from fairkv_eval.engine.phases import Extend, Tail
from fairkv_eval.errors import UsageError, naming
from fairkv_eval.eviction.layer import attention_weights, block_rows, blocks_at_once
from fairkv_eval.eviction.press import Press, accepted
from fairkv_eval.eviction.replays import Ask, ByLength


@dataclass(eq=False)
class ReplayTail(Tail):
    """A tail of one context's replay. ``received`` collects, layer by layer, what each key of the context got from its
    queries, as ``receives`` says (see `Press`), by query head: float32 ``[heads, n]``. ``by_length``: divided by the
    length of the hidden state that the query comes from."""

    receives: str = "most"
    received: list[Tensor] = field(default_factory=list)
    by_length: bool = False


class Replays:
    """The replays that variants of some contexts wait for; variants that differ in ratio, fairness or whitelist share
    one."""

    def __init__(self, contexts: Sequence[Context], ask: Ask | None) -> None:
        self._contexts = contexts
        self._tails: dict[tuple[Context, Hashable], list[ReplayTail]] = {}
        for context in contexts:
            for variant in context.replays:
                key = (context, _key(variant))
                if key not in self._tails:
                    self._tails[key] = _tails(context, variant, ask)

    @property
    def attentions(self) -> list[nn.Module]:
        """The attention modules of the model's layers."""
        held = next((context.held_back for context in self._contexts if context.held_back), [])
        return [layer.output.attention for layer, _ in held if layer.output is not None]

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
                tails = self._tails[context, _key(variant)]
                by_layer = zip(*(tail.received for tail in tails), strict=True)
                context.finish(variant, [_of_all_tails(received, _press(variant).receives) for received in by_layer])
            context.close_replays()


def _press(variant: Variant) -> Press:
    press = variant.policy.press
    assert press is not None and press.replay is not None
    return press


def _tails(context: Context, variant: Variant, ask: Ask | None) -> list[ReplayTail]:
    press = _press(variant)
    if ask is None:
        raise UsageError(f"press {press.name!r} replays the context, which needs a tokenizer")
    with naming(context.label):
        tails = press.replays(context.tokens, ask, variant.question, variant.policy.parameters)
    return [
        ReplayTail(tokens, context.full, False, receives=press.receives, by_length=isinstance(tokens, ByLength))
        for tokens in tails
    ]


def _key(variant: Variant) -> Hashable:
    """What decides a variant's replay: the function and its parameters, what is asked, and what is collected."""
    press = _press(variant)
    assert press.replay is not None
    parameters = accepted(press.replay, variant.policy.parameters)
    return (press.replay, *parameters.items(), variant.question, press.receives)


def _of_all_tails(received: Sequence[Tensor], receives: str) -> Tensor:
    """What all tails of a replay gave a layer's keys, from what each gave: ``[kv_heads, n]``."""
    together = torch.stack(list(received))
    return together.amax(0) if receives == "most" else together.mean(0)


class Replay(Extend):
    """Tails of replays, packed, each against its own full context."""

    def __init__(self, tails: Sequence[ReplayTail], backend: Backend = SDPA) -> None:
        super().__init__(tails, backend=backend)
        self.replay_tails = tails
        self._lengths = torch.ones(0)  # of the hidden states that enter the layer, of all tails

    def watching(self, attentions: Iterable[nn.Module]) -> AbstractContextManager[None]:
        """Look at what enters these attention modules, of all layers, in the pass inside; only if a tail needs that."""
        needed = any(tail.by_length for tail in self.replay_tails)
        return watched(attentions, self._see) if needed else nullcontext()

    def _see(self, hidden: Tensor) -> None:
        self._lengths = hidden[0].float().norm(dim=-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`."""
        start = 0
        for tail in self.replay_tails:
            at = slice(start, start := start + len(tail.tokens))
            keys = torch.cat([tail.cache.layers[self.layer_index][0].plain().keys, k[0, :, at]], 1)
            lengths = self._lengths[at].to(q.device) if tail.by_length else None
            tail.received.append(RECEIVED[tail.receives](q[0, :, at], keys, options, lengths))
        return super().attend(q, k, v, options)


def _most_received(q: Tensor, k: Tensor, options: Options, lengths: Tensor | None = None) -> Tensor:
    """The most attention the last m of n tokens give each key before them, by query head: ``[heads, n - m]``."""
    most = torch.zeros(q.shape[0], k.shape[1] - q.shape[1], device=k.device)
    for _, weights in _blocks(q, k, options, lengths):
        most = torch.maximum(most, weights.amax(1))
    return most


def _mean_received(q: Tensor, k: Tensor, options: Options, lengths: Tensor | None = None) -> Tensor:
    """Attention that the last m of n tokens give each key before them, times the number of tokens before the query, so
    that an even share counts 1; the mean over queries, by query head: ``[heads, n - m]``."""
    total = torch.zeros(q.shape[0], k.shape[1] - q.shape[1], device=k.device)
    for place, weights in _blocks(q, k, options, lengths):
        before = torch.arange(place, place + weights.shape[1], device=k.device)
        total += (weights * before[:, None]).sum(1)
    return total / q.shape[1]


RECEIVED: dict[str, Callable[..., Tensor]] = {
    "most": _most_received,
    "mean": _mean_received,
}


def _blocks(q: Tensor, k: Tensor, options: Options, lengths: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """The attention of the last m of n tokens to the keys before them, in blocks of queries: the place of a block's
    first query, and ``[heads, rows, n - m]``. lengths: what each query's attention is divided by, ``[m]``."""
    m, n = q.shape[1], k.shape[1]
    rows, k = block_rows(q.shape[0], n) * blocks_at_once(q.device), k.float()
    for first in range(0, m, rows):
        last = min(first + rows, m)
        weights = attention_weights(q[:, first:last], k[:, : n - m + last], options.scaling, options.softcap)
        seen = weights[:, :, : n - m]
        yield n - m + first, seen if lengths is None else seen / lengths[first:last, None]
