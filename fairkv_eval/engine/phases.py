"""The three ways a model runs: contexts in, tails against what is left of them, one token more for every row.

Each phase is the ``kv`` of one forward pass over a packed sequence ``[1, total]`` and sees its layers in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from types import MappingProxyType

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Attending, Backend, Options
from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.cache import ContextCache, Pairs, RowCache
from fairkv_eval.engine.context import Context
from fairkv_eval.engine.prefixes import Part, States, tree
from fairkv_eval.engine.rolling import Rolling
from fairkv_eval.eviction.layer import Layer


class Prefill:
    """Contexts run uncompressed, packed, in one piece or in chunks; after a layer's attention its KV pairs are evicted.

    What contexts begin alike is run once, and not at all if it is ``stem``, which an earlier pass has computed. The
    first ``keep`` tokens of the last context become the next `kept` stem. rotations: how each layer turns its keys, for
    what needs to know. queries: whether anything asks for the queries of a context. backend: what attends.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        layers: int,
        rotations: Sequence[Rotation | None] = (),
        stem: Part | None = None,
        keep: int = 0,
        queries: bool = True,
        backend: Backend = SDPA,
    ) -> None:
        self.contexts = contexts
        self.layers = layers
        self.rotations = rotations
        self.parts, self.ends = tree([context.tokens for context in contexts], stem)
        self.stem = stem
        self.kept = Part(contexts[-1].tokens[:keep]) if keep else None
        self.queries = queries
        self.backend = backend
        self.layer = 0
        starts = [0, *accumulate(len(part.tokens) for part in self.parts)]
        self._placed = list(zip(self.parts, starts, strict=False))
        self._total = starts[-1]
        self._begin_layer()

    @property
    def tokens(self) -> list[int]:
        return [token for part in self.parts for token in part.tokens]

    @property
    def positions(self) -> list[int]:
        return [position for part in self.parts for position in range(part.start, part.stop)]

    def _begin_layer(self) -> None:
        self._seen = 0  # packed tokens that have come through the layer
        self._own: States | None = None
        self._paths: dict[Part | None, States] = {}
        if self.stem and self.layer < len(self.stem.layers):
            self._paths[self.stem] = self.stem.layers[self.layer]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """q ``[1, heads, m, dim]``, k and v ``[1, kv_heads, m, dim]`` to ``[1, m, heads, dim]``.

        m is the number of all tokens, or of those of the next chunk: a layer's chunks come in order, and the layer is
        evicted when the last one has come.
        """
        first, self._seen = self._seen, self._seen + q.shape[2]
        self._take(q[0] if self.queries else q[0, :, :0], k[0], v[0], first)
        sequences = []
        for part, at in self._placed:
            start, stop = max(first, at), min(self._seen, at + len(part.tokens))
            if start < stop:
                states = self._path(part, at, stop)
                sequences.append((q[0, :, start - first : stop - first], states.k, states.v))
        outputs = self.backend.packed(sequences, scaling, options)
        if self._seen == self._total:
            self._finish_layer(scaling, options)
        return torch.cat(outputs, 1).transpose(0, 1)[None]

    def _take(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> None:
        """Put a chunk's states with those of the layer's earlier chunks."""
        if k.shape[1] == self._total:
            self._own = States(q, k, v)
            return
        if self._own is None:
            sizes = (self._total if self.queries else 0, self._total, self._total)
            self._own = States(*(t.new_empty(t.shape[0], n, t.shape[2]) for t, n in zip((q, k, v), sizes, strict=True)))
        for whole, chunk in zip(self._own, (q, k, v), strict=True):
            whole[:, first : first + chunk.shape[1]] = chunk

    def _path(self, part: Part, at: int, stop: int) -> States:
        """The states of a part up to packed token ``stop``, and of all that goes before it."""
        assert self._own is not None
        states = States(*(t[:, at:stop] for t in self._own))
        if part.parent:
            states = self._paths[part.parent].followed_by(states)
        if stop == at + len(part.tokens):
            self._paths[part] = states
        return states

    def _finish_layer(self, scaling: float, options: Options) -> None:
        """Let every context evict what it does not keep of this layer."""
        rotation = self.rotations[self.layer] if self.rotations else None
        for context, end in zip(self.contexts, self.ends, strict=True):
            states = self._paths[end]
            layer = Layer(*states, scaling, self.layer, self.layers, context.seed, options.softcap, rotation)
            context.store(layer, options.window)
        if self.kept:
            self.kept.layers.append(self._paths[self.ends[-1]].first(self.kept.stop))
        self.layer += 1
        self._begin_layer()


@dataclass(eq=False)
class Tail:
    """Tokens that follow a context: never evicted. ``layers`` collects context and tail where the row goes on."""

    tokens: Sequence[int]
    cache: ContextCache
    goes_on: bool
    layers: list[list[Pairs]] = field(default_factory=list)
    rolling: Rolling | None = None


class Extend:
    """Tails, packed one after another, each against its own compressed context. The rest as for `Prefill`."""

    def __init__(
        self, tails: Sequence[Tail], rotations: Sequence[Rotation | None] = (), backend: Backend = SDPA
    ) -> None:
        self.tails = tails
        self.rotations = rotations
        self.backend = backend
        self.layer = 0
        for tail in tails:
            if tail.rolling:
                tail.rolling.begin_tail(len(tail.tokens))

    @property
    def tokens(self) -> list[int]:
        return [token for tail in self.tails for token in tail.tokens]

    @property
    def positions(self) -> list[int]:
        """Each tail goes on where its context's keys end."""
        starts = [(tail.cache.position, len(tail.tokens)) for tail in self.tails]
        return [position for start, n in starts for position in range(start, start + n)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """Shapes as in `Prefill.attend`."""
        counts: list[int] = []
        heads = iter(self.backend.packed(self._sequences(q, k, v, scaling, options, counts), scaling, options))
        outputs = [torch.cat([next(heads) for _ in range(count)]) for count in counts]
        self.layer += 1
        return torch.cat(outputs, 1).transpose(0, 1)[None]

    def _sequences(
        self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options, counts: list[int]
    ) -> Iterator[Attending]:
        """What attends in this layer, tail by tail and, where heads differ in length, head by head; ``counts`` collects
        how many there are of each tail."""
        start = 0
        for tail in self.tails:
            at = slice(start, start := start + len(tail.tokens))
            pairs = self._following(tail, k[0, :, at], v[0, :, at])
            counts.append(len(pairs))
            if tail.goes_on:
                tail.layers.append(pairs)
            if tail.rolling:
                rotation = self.rotations[self.layer] if self.rotations else None
                layer = Layer(q[0, :, at], *pairs[0], scaling, self.layer, softcap=options.softcap, rotation=rotation)
                tail.rolling.observe(layer, options.window)
            queries = q[0, :, at].split([len(own.keys) * q.shape[1] // k.shape[1] for own in pairs])
            for asked, own in zip(queries, pairs, strict=True):
                yield asked, own.keys, own.values

    def _following(self, tail: Tail, k: Tensor, v: Tensor) -> list[Pairs]:
        """A context's pairs in this layer with those of its tail."""
        if not tail.cache.layers:
            return [Pairs(k, v)]
        context = tail.cache.layers[self.layer]
        heads = [len(pairs.keys) for pairs in context]
        return [
            Pairs(torch.cat([pairs.keys, keys], 1), torch.cat([pairs.values, values], 1))
            for pairs, keys, values in zip(context, k.split(heads), v.split(heads), strict=True)
        ]


class Decode:
    """One token for every row of the running batch, packed cache by cache in row order.

    rolling: of the rows that have a decode budget; rotations and backend as for `Prefill`.
    """

    def __init__(
        self,
        caches: Sequence[RowCache],
        rolling: Mapping[int, Rolling] = MappingProxyType({}),
        rotations: Sequence[Rotation | None] = (),
        backend: Backend = SDPA,
    ) -> None:
        self.caches = caches
        self.rolling = rolling
        self.rotations = rotations
        self.backend = backend
        self.layer = 0
        for cache in caches:
            cache.begin_step()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """Shapes as in `Prefill.attend`, m being the number of rows."""
        outputs, start = [], 0
        for cache in self.caches:
            at = slice(start, start + cache.rows)
            outputs.append(self._attend(cache, q[0, :, at], k[0, :, at], v[0, :, at], scaling, options))
            for row in range(cache.rows if self.rolling else 0):
                if rolling := self.rolling.get(start + row):
                    self._roll(rolling, cache, row, q[0, :, start + row, None], scaling, options)
            start = at.stop
        self.layer += 1
        return torch.cat(outputs)[None]

    def _attend(self, cache: RowCache, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """The rows of one cache: q ``[heads, rows, dim]``, k, v ``[kv_heads, rows, dim]`` to ``[rows, heads, dim]``."""
        kv_heads, rows = k.shape[:2]
        # The query heads of a group stand as queries of their KV head, so no key is repeated.
        grouped = q.transpose(0, 1).reshape(rows, kv_heads, -1, q.shape[-1])
        shown = cache.append(self.layer, k.transpose(0, 1), v.transpose(0, 1), options)
        outputs = [self.backend.rows(grouped[:, own.heads], own, scaling, options) for own in shown]
        return torch.cat(outputs, 1).reshape(rows, -1, v.shape[-1])

    def _roll(self, rolling: Rolling, cache: RowCache, row: int, q: Tensor, scaling: float, options: Options) -> None:
        """Let a row with a decode budget see its newest pair and evict: q ``[heads, 1, dim]``."""
        own, rotation = cache.row(self.layer, row), self.rotations[self.layer]
        layer = Layer(q, *own, scaling, self.layer, softcap=options.softcap, rotation=rotation)
        rolling.observe(layer, options.window)
        left = rolling.evict(layer, options.window)
        if left is not None:
            cache.replace(self.layer, row, left)
