"""The three ways a model runs: contexts uncompressed, tails against compressed contexts, one more token for every row.

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
from fairkv_eval.engine.cache import ContextCache, LayerPairs, RowCache
from fairkv_eval.engine.context import Context
from fairkv_eval.engine.decode_budget import DecodeBudget
from fairkv_eval.engine.prefixes import Part, States, tree
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.storage.channels import channel_votes
from fairkv_eval.storage.pairs import Pairs, Stored, store
from fairkv_eval.storage.storage import Storage

Rotations = Sequence[Rotation | None]  # how each layer turns its keys; () if nothing needs to know


class Prefill:
    """Contexts run uncompressed, packed, in one piece or in chunks; after a layer's attention its KV pairs are evicted.

    Tokens that contexts begin with alike run once, and not at all if they are in ``stem``, which an earlier pass has
    computed. next_stem: the first tokens of the last context, whose states this pass collects for a later one. queries:
    whether anything reads the queries of a context. backend: what attends.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        n_layers: int,
        rotations: Rotations = (),
        stem: Part | None = None,
        next_stem: Part | None = None,
        queries: bool = True,
        backend: Backend = SDPA,
    ) -> None:
        self.contexts = contexts
        self.n_layers = n_layers
        self.rotations = rotations
        self.parts, self.ends = tree([context.tokens for context in contexts], stem)
        self.stem = stem
        self.next_stem = next_stem
        self.queries = queries
        self.backend = backend
        self.layer_index = 0
        edges = [0, *accumulate(len(part.tokens) for part in self.parts)]
        self._placed = list(zip(self.parts, edges[:-1], strict=True))
        self._total = edges[-1]
        self._begin_layer()

    @property
    def tokens(self) -> list[int]:
        return [token for part in self.parts for token in part.tokens]

    @property
    def positions(self) -> list[int]:
        return [position for part in self.parts for position in range(part.start, part.stop)]

    def _begin_layer(self) -> None:
        self._n_seen = 0  # packed tokens that have come through the layer
        self._packed: States | None = None
        self._paths: dict[Part, States] = {}  # the states of a part and of all parts before it
        if self.stem and self.layer_index < len(self.stem.states_by_layer):
            self._paths[self.stem] = self.stem.states_by_layer[self.layer_index]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`. A layer's chunks come in order, and it is evicted when the last one has come."""
        first, self._n_seen = self._n_seen, self._n_seen + q.shape[2]
        self._collect(q[0] if self.queries else q[0, :, :0], k[0], v[0], first)
        sequences = []
        for part, at in self._placed:
            start, stop = max(first, at), min(self._n_seen, at + len(part.tokens))
            if start < stop:
                states = self._path(part, at, stop)
                sequences.append((q[0, :, start - first : stop - first], states.k, states.v))
        outputs = self.backend.packed(sequences, options)
        if self._n_seen == self._total:
            self._finish_layer(options)
        return torch.cat(outputs, 1).transpose(0, 1)[None]

    def _collect(self, q: Tensor, k: Tensor, v: Tensor, first: int) -> None:
        """Put a chunk's states after those of the layer's earlier chunks."""
        if k.shape[1] == self._total:
            self._packed = States(q, k, v)
            return
        if self._packed is None:
            sizes = (self._total if self.queries else 0, self._total, self._total)
            empty = (t.new_empty(t.shape[0], n, t.shape[2]) for t, n in zip((q, k, v), sizes, strict=True))
            self._packed = States(*empty)
        for whole, chunk in zip(self._packed, (q, k, v), strict=True):
            whole[:, first : first + chunk.shape[1]] = chunk

    def _path(self, part: Part, at: int, stop: int) -> States:
        """The states of a part up to packed token ``stop``, and of all parts before it."""
        assert self._packed is not None
        states = States(*(t[:, at:stop] for t in self._packed))
        if part.parent:
            states = self._paths[part.parent].followed_by(states)
        if stop == at + len(part.tokens):
            self._paths[part] = states
        return states

    def _finish_layer(self, options: Options) -> None:
        """Let every context evict from this layer."""
        index, rotation = self.layer_index, _rotation(self.rotations, self.layer_index)
        for context, end in zip(self.contexts, self.ends, strict=True):
            layer = Layer.of(self._paths[end], options, index, rotation, self.n_layers, context.seed)
            context.store(layer, options.window)
        if self.next_stem:
            self.next_stem.states_by_layer.append(self._paths[self.ends[-1]].first(self.next_stem.stop))
        self.layer_index += 1
        self._begin_layer()


@dataclass(eq=False)
class Tail:
    """Tokens that follow a context: never evicted. If a row ``continues``, ``layers`` collects context and tail."""

    tokens: Sequence[int]
    cache: ContextCache
    continues: bool
    layers: list[LayerPairs] = field(default_factory=list)
    budget: DecodeBudget | None = None


class Extend:
    """Tails, packed one after another, each against its own compressed context. rotations, backend: see `Prefill`."""

    def __init__(self, tails: Sequence[Tail], rotations: Rotations = (), backend: Backend = SDPA) -> None:
        self.tails = tails
        self.rotations = rotations
        self.backend = backend
        self.layer_index = 0
        for tail in tails:
            if tail.budget:
                tail.budget.begin_tail(len(tail.tokens))

    @property
    def tokens(self) -> list[int]:
        return [token for tail in self.tails for token in tail.tokens]

    @property
    def positions(self) -> list[int]:
        """Each tail begins where its context's keys end."""
        starts = [(tail.cache.position, len(tail.tokens)) for tail in self.tails]
        return [position for start, n in starts for position in range(start, start + n)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`."""
        parts = iter(self.backend.packed(self._sequences(q[0], k[0], v[0], options), options))
        outputs = [torch.cat([next(parts) for _ in range(self._n_parts(tail))]) for tail in self.tails]
        self.layer_index += 1
        return torch.cat(outputs, 1).transpose(0, 1)[None]

    def _n_parts(self, tail: Tail) -> int:
        """How many sequences a tail attends as: one, or one per head if the context's heads differ in length."""
        return len(tail.cache.layers[self.layer_index]) if tail.cache.layers else 1

    def _sequences(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Iterator[Attending]:
        """The sequences of this layer, tail by tail and part by part, made one by one as a backend consumes them."""
        start = 0
        for tail in self.tails:
            at = slice(start, start := start + len(tail.tokens))
            pairs = self._follow(tail, q[:, at], k[:, at], v[:, at], options)
            queries = q[:, at].split([len(part.keys) * q.shape[0] // k.shape[0] for part in pairs])
            for part_queries, part in zip(queries, pairs, strict=True):
                yield part_queries, part.keys, part.values

    def _follow(self, tail: Tail, q: Tensor, k: Tensor, v: Tensor, options: Options) -> list[Pairs]:
        """A context's pairs in this layer, unpacked, with those of its tail; the row that continues stores both."""
        cache = tail.cache
        context = cache.layers[self.layer_index] if cache.layers else [_nothing(cache.storage, q, k, v, options.window)]
        heads = [part.heads for part in context]
        newer = [Pairs(*part) for part in zip(k.split(heads), v.split(heads), strict=True)]
        pairs = [part.plain().extended(added) for part, added in zip(context, newer, strict=True)]
        if tail.continues and cache.storage.plain:
            tail.layers.append([*pairs])
        elif tail.continues:
            tail.layers.append([part.extended(added) for part, added in zip(context, newer, strict=True)])
        if tail.budget:
            rotation = _rotation(self.rotations, self.layer_index)
            tail.budget.receive(Layer.of((q, *pairs[0]), options, self.layer_index, rotation), options.window)
        return pairs


class Decode:
    """One token for every row of the running batch, packed cache by cache in row order.

    budgets: the decode budgets of the rows that have one, by row. rotations, backend: see `Prefill`.
    """

    def __init__(
        self,
        caches: Sequence[RowCache],
        budgets: Mapping[int, DecodeBudget] = MappingProxyType({}),
        rotations: Rotations = (),
        backend: Backend = SDPA,
    ) -> None:
        self.caches = caches
        self.budgets = budgets
        self.rotations = rotations
        self.backend = backend
        self.layer_index = 0
        for cache in caches:
            cache.begin_step()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`; m is the number of rows."""
        outputs, start = [], 0
        for cache in self.caches:
            at = slice(start, start + cache.n_rows)
            outputs.append(self._attend(cache, q[0, :, at], k[0, :, at], v[0, :, at], options))
            for slot in range(cache.n_rows if self.budgets else 0):
                if budget := self.budgets.get(start + slot):
                    self._enforce(budget, cache, slot, q[0, :, start + slot, None], options)
            start = at.stop
        self.layer_index += 1
        return torch.cat(outputs)[None]

    def _attend(self, cache: RowCache, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """The rows of one cache: q ``[heads, rows, dim]``, k, v ``[kv_heads, rows, dim]`` to ``[rows, heads, dim]``."""
        kv_heads, rows = k.shape[:2]
        # The query heads of a group stand as queries of their KV head, so no key is repeated.
        grouped = cache.storage.turned(q.transpose(0, 1).reshape(rows, kv_heads, -1, q.shape[-1]))
        visible = cache.append(self.layer_index, k.transpose(0, 1), v.transpose(0, 1), options.window)
        outputs = [self.backend.rows(grouped[:, part.heads], part, options) for part in visible]
        return cache.storage.turned_back(torch.cat(outputs, 1)).reshape(rows, -1, v.shape[-1])

    def _enforce(self, budget: DecodeBudget, cache: RowCache, slot: int, q: Tensor, options: Options) -> None:
        """Show a row's decode budget its newest pair, and evict what it does not keep: q ``[heads, 1, dim]``."""
        states = (q, *cache.pairs(self.layer_index, slot))
        layer = Layer.of(states, options, self.layer_index, _rotation(self.rotations, self.layer_index))
        budget.receive(layer, options.window)
        kept = budget.evict(layer, options.window)
        if kept is not None:
            cache.replace(self.layer_index, slot, kept)


def _nothing(storage: Storage, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Stored:
    """No context's pairs in one layer, as a storage holds them. The tail chooses the channels of what will follow."""
    if window is not None or not storage.pruned:
        return store(storage.all_channels, Pairs(k[:, :0], v[:, :0]))
    votes = channel_votes(q, len(k), [(0, q.shape[1])], storage.observers)
    return store(storage, Pairs(k[:, :0], v[:, :0]), votes, k)


def _rotation(rotations: Rotations, layer_index: int) -> Rotation | None:
    return rotations[layer_index] if rotations else None
