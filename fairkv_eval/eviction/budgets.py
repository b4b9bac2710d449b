"""How many pairs each layer and head keeps, for presses that do not give all of them the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from fairkv_eval.eviction.quotas import largest_remainder, pooled

LayerBudgets = Callable[[int, int, int, int], list[int]]
ModelBudgets = Callable[[Sequence[Tensor], int, int], list[list[int]]]


def even(n: int, mean: int, layers: int, floor: int) -> list[int]:
    """The same budget in every layer."""
    return [mean] * layers


def heads_compete(worth: Sequence[Tensor], mean: int, floor: int) -> list[list[int]]:
    """Budgets of the heads of all layers, which compete for the model's pairs, each by its own scores."""
    heads = [len(of_layer) for of_layer in worth]
    budgets = iter(pooled(torch.cat(list(worth)), sum(heads) * mean, floor))
    return [[next(budgets) for _ in range(count)] for count in heads]


@dataclass(frozen=True)
class Division:
    """A rule for the budgets of all layers and heads; its total is that of an even division, unless it has its ``own``.

    layers: ``(n, mean, layers, floor) -> budgets``: KV pairs per head, layer by layer, from the context's n tokens, the
    budgets' mean, the number of layers, and the least any layer may get (its whitelist). pooled: heads compete for the
    pairs of their ``layer``, or budgets are made of the scores of the whole ``model``, or neither. safeguard: the part
    of an even share that no head of a layer goes below. model: ``(worth, mean, floor) -> budgets``, layer by layer and
    head by head, if pooled over the model; worth: each layer's scores ``[kv_heads, n]``, whitelisted ones first and
    then from the best down.

    own: the press itself says how much is kept, and takes no ratio: pairs that a head keeps of a context of n tokens,
    on average and rounded up, or at most if that depends on the text. least: in place of any budget, all pairs that
    score at least this much are kept.
    """

    layers: LayerBudgets = even
    pooled: Literal["", "layer", "model"] = ""
    safeguard: float = 0.0
    model: ModelBudgets = heads_compete
    own: Callable[[int], int] | None = None
    least: float | None = None

    @property
    def uniform(self) -> bool:
        """Whether all layers and heads keep equally many pairs."""
        return self.layers is even and not self.pooled and self.least is None


EVEN = Division()


def pyramidkv(division: Division, *, window: int, beta: float) -> Division:
    """Budgets that fall from the first layer to the last (arXiv 2406.02069, its equations for the layer budgets)."""
    return replace(division, layers=partial(pyramid, window=window, beta=beta))


def adakv(division: Division, *, safeguard: float) -> Division:
    """Heads compete for the pairs of their layer, none below a part of its even share (arXiv 2407.11550)."""
    return replace(division, pooled="layer", safeguard=safeguard)


def criticalkv(division: Division, *, pooled: bool, safeguard: float) -> Division:
    """As the base, or, if ``pooled``, heads compete as in `adakv` (arXiv 2502.03805)."""
    return adakv(division, safeguard=safeguard) if pooled else division


def kvzip(division: Division, *, uniform: bool) -> Division:
    """All heads of the model compete, or those of each layer if ``uniform`` (arXiv 2505.23416)."""
    return replace(division, pooled="layer" if uniform else "model")


def zigzagkv(division: Division, *, share: float, bound: float) -> Division:
    """Layers get pairs by how many of them hold most of the attention (arXiv 2412.09036)."""
    return replace(division, pooled="model", model=partial(by_uncertainty, share=share, bound=bound))


def kvcompose(division: Division, *, structured: bool) -> Division:
    """All layers compete by composites of their heads' best pairs, or all heads if not ``structured``
    (arXiv 2509.05165)."""
    return replace(division, pooled="model", model=composites_compete if structured else heads_compete)


def simlayerkv(division: Division) -> Division:
    """Every layer keeps what its rule does not score below 0 (arXiv 2410.13846)."""
    return replace(division, own=whole, least=0.0)


def duo_attention(division: Division) -> Division:
    """Every head keeps what its rule does not score below 0 (arXiv 2410.10819)."""
    return replace(division, own=whole, least=0.0)


def threshold(division: Division, *, threshold: float) -> Division:
    """Every head keeps what scores at least this much (as DMS at inference, arXiv 2506.05345)."""
    return replace(division, own=whole, least=threshold)


def whole(n: int) -> int:
    """Of n pairs all, at most."""
    return n


def composites_compete(worth: Sequence[Tensor], mean: int, floor: int) -> list[list[int]]:
    """Budgets of layers that compete for the model's pairs. The i-th best pairs of a layer's heads are one composite,
    worth their mean; those of the first layer are worth as much as any layer's, so that none gets more."""
    lanes = torch.stack([of_layer.mean(0) for of_layer in worth])
    lanes[0] = lanes.amax(0)
    budgets = pooled(lanes, len(lanes) * mean, floor)
    return [[budget] * len(of_layer) for budget, of_layer in zip(budgets, worth, strict=True)]


def by_uncertainty(worth: Sequence[Tensor], mean: int, floor: int, *, share: float, bound: float) -> list[list[int]]:
    """The part ``bound`` of the mean for every layer, and the rest in proportion to the layers' uncertainty.

    No layer goes above the context or below the whitelist; the others share equally what such a bound adds or takes
    away, and the total is ``mean`` times the layers exactly.
    """
    uncertain = [uncertainty(of_layer, share) for of_layer in worth]
    low = mean * bound
    wanted = [low + (mean - low) * len(worth) * layer / sum(uncertain) for layer in uncertain]
    budgets = _within(wanted, max(floor, 1), worth[0].shape[1], mean * len(worth))
    return [[budget] * len(of_layer) for budget, of_layer in zip(budgets, worth, strict=True)]


def uncertainty(worth: Tensor, share: float) -> float:
    """Pairs of a layer that hold this share of its scores, from the best down, averaged over the heads.

    worth: ``[kv_heads, n]``. Scores below 0 and those of protected pairs count as nothing; it is 1 if all do.
    """
    mass = worth.double().masked_fill(worth.isinf(), 0).clamp(min=0).sort(-1, descending=True).values
    short = mass.cumsum(-1) < mass.sum(-1, keepdim=True) * share
    return float((short.sum(-1) + 1).clamp(max=worth.shape[1]).double().mean())


def pyramid(n: int, mean: int, layers: int, floor: int, *, window: int, beta: float) -> list[int]:
    """Budgets in arithmetic progression: the last layer's is ``mean / beta``, the first's ``2·mean − mean / beta``.

    No layer goes above n, or below the window or the whitelist unless the mean is smaller. The other layers share
    equally what such a bound adds or takes away, and the total is ``mean · layers`` exactly.
    """
    if layers < 2:  # none if all of a model's layers slide
        return [mean] * layers
    last = mean / beta
    first = 2 * mean - last
    step = (first - last) / (layers - 1)
    wanted = [first - i * step for i in range(layers)]
    low = min(mean, max(window, floor, 1))
    return _within(wanted, low, n, mean * layers)


def _within(wanted: list[float], low: int, high: int, total: int) -> list[int]:
    """Whole numbers near the wanted ones, all moved by one amount so that they sum to the total within the bounds."""

    def moved(by: float) -> list[float]:
        return [min(max(x + by, low), high) for x in wanted]

    down, up = low - max(wanted), high - min(wanted)
    for _ in range(100):
        middle = (down + up) / 2
        if sum(moved(middle)) < total:
            down = middle
        else:
            up = middle
    return largest_remainder(moved(up), total)  # the bounds are whole numbers, so rounding cannot cross them
