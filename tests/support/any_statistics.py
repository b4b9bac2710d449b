"""Statistics of no particular model: they fit every layer, and are the same for layers of the same place and shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.model_statistics import ModelStatistics
from fairkv_eval.eviction.press import Parameters, Press, accepted


class AnyStatistics(ModelStatistics):
    """What the press's own rule makes of random queries, keys and values, shaped as the layer's that asks."""

    def __init__(self, press: Press, parameters: Parameters) -> None:
        super().__init__({}, {})
        assert press.statistics is not None
        self.rule = press.statistics
        self.arguments = accepted(press.statistics, parameters)

    def of_all(self, layer: Layer) -> Mapping[str, Tensor]:
        parts = [self.of(replace(layer, index=index)) for index in range(max(layer.count, layer.index + 1))]
        return {name: torch.stack([part[name] for part in parts]).cpu() for name in parts[0]}

    def of(self, layer: Layer) -> Mapping[str, Tensor]:
        generator = torch.Generator().manual_seed(layer.index)
        shapes = [(states.shape[0], 30, states.shape[2]) for states in (layer.q, layer.k, layer.v)]
        q, k, v = (torch.randn(shape, generator=generator).to(layer.k.device) for shape in shapes)
        text = Layer(q, k, v, layer.scaling, layer.index, layer.count, rotation=layer.rotation)
        return {name: tensor.float() for name, tensor in self.rule(text, **self.arguments).items()}
