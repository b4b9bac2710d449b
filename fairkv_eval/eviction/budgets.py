"""How a context's budget is divided over layers and heads, for presses that do not give all of them the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from fairkv_eval.eviction.quotas import largest_remainder

LayerBudgets = Callable[[int, int, int, int], list[int]]


def even(n: int, mean: int, layers: int, floor: int) -> list[int]:
    """The same budget in every layer."""
    return [mean] * layers


@dataclass(frozen=True)
class Division:
    """A rule for the budgets of all layers and heads; its total is that of an even division.

    layers: ``(n, mean, layers, floor) -> budgets``: KV pairs per head, layer by layer, from the context's n tokens, the
    budgets' mean, the number of layers, and the least any layer may get (its whitelist). pooled: heads compete for the
    pairs of their ``layer`` or of the whole ``model``, or not at all. safeguard: the part of an even share that no head
    goes below.
    """

    layers: LayerBudgets = even
    pooled: Literal["", "layer", "model"] = ""
    safeguard: float = 0.0

    @property
    def uniform(self) -> bool:
        """Whether all layers and heads keep equally many pairs."""
        return self.layers is even and not self.pooled


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
