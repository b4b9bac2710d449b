"""The three ways a model runs: contexts in, tails against what is left of them, one token more for every row.

Each phase is the ``kv`` of one forward pass over a packed sequence ``[1, total]`` and sees its layers in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from fairkv_eval.attention import Options, causal, masked
from fairkv_eval.cache import ContextCache, Pairs, RowCache
from fairkv_eval.context import Context
from fairkv_eval.layer import Layer
from fairkv_eval.prefixes import Part, States, tree
from fairkv_eval.rolling import Rolling
from fairkv_eval.rope import Rotation


class Prefill:
    """Contexts run uncompressed, packed; after a layer's attention its KV pairs are evicted.

    What contexts begin alike is run once, and not at all if it is ``stem``, which an earlier pass has computed. The
    first ``keep`` tokens of the last context become the next `kept` stem. rotations: how each layer turns its keys, for
    what needs to know. queries: whether anything asks for the queries of a context.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        layers: int,
        rotations: Sequence[Rotation | None] = (),
        stem: Part | None = None,
        keep: int = 0,
        queries: bool = True,
    ) -> None:
        self.contexts = contexts
        self.layers = layers
        self.rotations = rotations
        self.parts, self.ends = tree([context.tokens for context in contexts], stem)
        self.stem = stem
        self.kept = Part(contexts[-1].tokens[:keep]) if keep else None
        self.queries = queries
        self.layer = 0

    @property
    def tokens(self) -> list[int]:
        return [token for part in self.parts for token in part.tokens]

    @property
    def positions(self) -> list[int]:
        return [position for part in self.parts for position in range(part.start, part.stop)]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """q ``[1, heads, total, dim]``, k and v ``[1, kv_heads, total, dim]`` to ``[1, total, heads, dim]``."""
        outputs, at = [], 0
        paths: dict[Part | None, States] = {self.stem: self.stem.layers[self.layer]} if self.stem else {}
        for part in self.parts:
            own = slice(at, at := at + len(part.tokens))
            asked = q[0, :, own] if self.queries else q[0, :, :0]
            states = States(asked, k[0, :, own], v[0, :, own])
            if part.parent:
                states = paths[part.parent].followed_by(states)
            paths[part] = states
            outputs.append(causal(q[0, :, own], states.k, states.v, scaling, options))
        rotation = self.rotations[self.layer] if self.rotations else None
        for context, end in zip(self.contexts, self.ends, strict=True):
            states = paths[end]
            layer = Layer(*states, scaling, self.layer, self.layers, context.seed, options.softcap, rotation)
            context.store(layer, options.window)
        if self.kept:
            self.kept.layers.append(paths[self.ends[-1]].first(self.kept.stop))
        self.layer += 1
        return torch.cat(outputs, 1).transpose(0, 1)[None]


@dataclass(eq=False)
class Tail:
    """Tokens that follow a context: never evicted. ``layers`` collects context and tail where the row goes on."""

    tokens: Sequence[int]
    cache: ContextCache
    goes_on: bool
    layers: list[list[Pairs]] = field(default_factory=list)
    rolling: Rolling | None = None


class Extend:
    """Tails, packed one after another, each against its own compressed context. rotations as for `Prefill`."""

    def __init__(self, tails: Sequence[Tail], rotations: Sequence[Rotation | None] = ()) -> None:
        self.tails = tails
        self.rotations = rotations
        self.layer = 0
        for tail in tails:
            if tail.rolling:
                tail.rolling.begin_tail(len(tail.tokens))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """Shapes as in `Prefill.attend`."""
        outputs, start = [], 0
        for tail in self.tails:
            at = slice(start, start := start + len(tail.tokens))
            pairs = self._following(tail, k[0, :, at], v[0, :, at])
            queries = q[0, :, at].split([len(p.keys) * q.shape[1] // k.shape[1] for p in pairs])
            heads = [causal(own, *p, scaling, options) for own, p in zip(queries, pairs, strict=True)]
            outputs.append(torch.cat(heads))
            if tail.goes_on:
                tail.layers.append(pairs)
            if tail.rolling:
                rotation = self.rotations[self.layer] if self.rotations else None
                layer = Layer(q[0, :, at], *pairs[0], scaling, self.layer, softcap=options.softcap, rotation=rotation)
                tail.rolling.observe(layer, options.window)
        self.layer += 1
        return torch.cat(outputs, 1).transpose(0, 1)[None]

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
    """One token for every row of the running batch, packed in row order.

    rolling: of the rows that have a decode budget; rotations as for `Prefill`.
    """

    def __init__(
        self,
        cache: RowCache,
        rolling: Mapping[int, Rolling] = MappingProxyType({}),
        rotations: Sequence[Rotation | None] = (),
    ) -> None:
        self.cache = cache
        self.rolling = rolling
        self.rotations = rotations
        self.layer = 0
        cache.begin_step()

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        """Shapes as in `Prefill.attend`, total being the number of rows."""
        rows, kv_heads = q.shape[2], k.shape[1]
        # The query heads of a group stand as queries of their KV head, so no key is repeated.
        grouped = q[0].transpose(0, 1).reshape(rows, kv_heads, -1, q.shape[-1])
        shown = self.cache.append(self.layer, k[0].transpose(0, 1), v[0].transpose(0, 1), options)
        outputs = [
            masked(grouped[:, heads], keys, values, scaling, mask, options.softcap)
            for heads, keys, values, mask in shown
        ]
        for row, rolling in self.rolling.items():
            own, rotation = self.cache.row(self.layer, row), self.rotations[self.layer]
            layer = Layer(q[0, :, row : row + 1], *own, scaling, self.layer, softcap=options.softcap, rotation=rotation)
            rolling.observe(layer, options.window)
            left = rolling.evict(layer, options.window)
            if left is not None:
                self.cache.replace(self.layer, row, left)
        self.layer += 1
        return torch.cat(outputs, 1).reshape(1, rows, -1, v.shape[-1])
