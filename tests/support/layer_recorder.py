"""A phase that shows the layers of one uncompressed pass."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.attention.sdpa import causal
from fairkv_eval.eviction.layer import Layer


class Recorder:
    """A phase that runs one context uncompressed and remembers its layers."""

    def __init__(self, rotations: Sequence[Rotation | None]) -> None:
        self.rotations = rotations
        self.layers: list[Layer] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        at = len(self.layers)
        self.layers.append(Layer.of((q[0], k[0], v[0]), options, at, self.rotations[at], len(self.rotations)))
        return causal(q[0], k[0], v[0], options).transpose(0, 1)[None]
