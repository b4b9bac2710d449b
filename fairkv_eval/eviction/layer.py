"""What a scoring rule sees: one attention layer of one context, and one span of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.output_projection import OutputProjection
from fairkv_eval.attention.rotation import Rotation

PROTECTED = float("inf")

# Elements of one float32 block of attention weights (4 MiB): enough work for a matrix product, and small beside the
# keys of the long contexts for which memory matters. Blocks of 16 MiB, allocated and freed three at a time, left holes
# of 200 MiB in the memory of a process.
BLOCK_ELEMENTS = 1 << 20
BLOCKS_ON_DEVICE = 64


@dataclass(frozen=True)
class Span:
    """A contiguous range [start, stop) of a context, the ``index``-th of ``count`` spans that share one budget.

    ``budget`` is the number of pairs that a head keeps of it: the proportional share under fair eviction, the heads'
    mean if budgets differ by head. ``head_budgets`` are those of each head then, for rules of wrappers, once they are
    known; () before that, and if all heads have the same.
    """

    start: int
    stop: int
    index: int = 0
    count: int = 1
    budget: int = 0
    head_budgets: tuple[int, ...] = ()

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Layer:
    """What one attention layer shows of one context.

    q: ``[heads, n, dim]``; k, v: ``[kv_heads, n, dim]``, all after RoPE. It is the ``index``-th of ``count`` layers.
    ``seed`` is a number drawn from the context's tokens, for rules that need noise. ``softcap`` bounds the logits
    (Gemma 2). ``rotation`` is how the layer turned q and k by their positions, 0 … n−1; None if that is not known.
    ``replayed`` is the attention that each key got from a replay, for presses that replay: the most, or a mean.
    ``received`` is the mean attention that each key got from the queries so far, for rules that score while decoding.
    Both are float32 ``[kv_heads, n]``; ``replayed_by_query_head`` is ``replayed`` head by head, ``[heads, n]``.
    ``statistics``: what a press knows about this layer of the model beforehand, by name (see `statistics`);
    ``model_statistics``: the same of all layers, ``[layers, ...]``, for rules that compare layers. ``output``: what the
    layer makes of its heads' outputs, if that can be asked.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    scaling: float
    index: int = 0
    count: int = 1
    seed: int = 0
    softcap: float | None = None
    rotation: Rotation | None = None
    replayed: Tensor | None = None
    replayed_by_query_head: Tensor | None = None
    received: Tensor | None = None
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    model_statistics: Mapping[str, Tensor] = field(default_factory=dict)
    output: OutputProjection | None = None

    @classmethod
    def of(
        cls,
        states: tuple[Tensor, Tensor, Tensor],
        options: Options,
        index: int,
        rotation: Rotation | None = None,
        count: int = 1,
        seed: int = 0,
    ) -> Layer:
        """A layer from its queries, keys and values, and how it attends."""
        q, k, v = states
        return cls(q, k, v, options.scaling, index, count, seed, options.softcap, rotation, output=options.output)

    @property
    def kv_heads(self) -> int:
        return self.k.shape[0]

    def attention(self, start: int, stop: int) -> Tensor:
        """Causal attention weights of the queries [start, stop): float32 ``[heads, stop - start, stop]``."""
        return attention_weights(self.q[:, start:stop], self.k[:, :stop], self.scaling, self.softcap)

    def attention_blocks(self, start: int, stop: int) -> Iterator[Tensor]:
        """The rows of ``attention(start, stop)`` in blocks of bounded size, so that no n×n matrix is ever held."""
        rows = block_rows(self.q.shape[0], stop) * blocks_at_once(self.q.device)
        keys = self.k[:, :stop].float()
        for first in range(start, stop, rows):
            last = min(first + rows, stop)
            yield attention_weights(self.q[:, first:last], keys[:, :last], self.scaling, self.softcap)

    def column_sums(self, start: int, stop: int) -> Tensor:
        """Attention that keys [start, stop) get from queries [start, stop), summed: ``[heads, stop - start]``."""
        total = torch.zeros(self.q.shape[0], stop - start, device=self.k.device)
        for weights in self.attention_blocks(start, stop):
            columns = weights[:, :, start:].sum(1)
            total[:, : columns.shape[1]] += columns
        return total

    def most_per_kv_head(self, scores: Tensor) -> Tensor:
        """The most that any query head of each KV head's group has: ``[heads, m] -> [kv_heads, m]``."""
        grouped: Tensor = scores.unflatten(0, (self.kv_heads, -1))
        return grouped.amax(1)

    def per_kv_head(self, scores: Tensor) -> Tensor:
        """Mean over the query heads of each KV head's group: ``[heads, m] -> [kv_heads, m]``."""
        grouped: Tensor = scores.unflatten(0, (self.kv_heads, -1))
        return grouped.mean(1)


def attention_weights(q: Tensor, k: Tensor, scaling: float, softcap: float | None = None) -> Tensor:
    """Causal attention weights of the last m of n tokens: q ``[heads, m, dim]``, k ``[kv_heads, n, dim]`` to float32
    ``[heads, m, n]``."""
    m, n = q.shape[1], k.shape[1]
    grouped = q.float().unflatten(0, (k.shape[0], -1))  # [kv_heads, group, m, dim]
    logits = torch.einsum("hgqd,hkd->hgqk", grouped, k.float()).flatten(0, 1).mul_(scaling)
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    query = torch.arange(n - m, n, device=logits.device)
    future = torch.arange(n, device=logits.device) > query[:, None]
    return logits.masked_fill_(future, float("-inf")).softmax(-1)


def blocks_at_once(device: torch.device) -> int:
    """How many blocks may be one. A GPU has memory to spare, and waits while the host issues many small ones."""
    return 1 if device.type == "cpu" else BLOCKS_ON_DEVICE


def block_rows(heads: int, keys: int) -> int:
    """How many queries' attention weights over so many keys fit into one block."""
    return max(16, BLOCK_ELEMENTS // (heads * max(keys, 1)))
