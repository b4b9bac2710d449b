"""The layers of one uncompressed pass: a phase that records them, and those of a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import tiny
import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.rotation import Rotation, find_rotations
from fairkv_eval.attention.sdpa import causal
from fairkv_eval.attention.seam import attach
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


@cache
def context_of(n: int) -> list[int]:
    """n random tokens, none of them twice."""
    return torch.randperm(256, generator=torch.Generator().manual_seed(5))[:n].tolist()


def record(model: PreTrainedModel, tokens: Sequence[int]) -> list[Layer]:
    """The layers of one uncompressed pass over these tokens. The model is attached to the seam."""
    attach(model)
    phase = Recorder(list(find_rotations(model)))
    places = torch.arange(len(tokens))[None]
    with torch.inference_mode():
        model(torch.tensor([list(tokens)]), position_ids=places, use_cache=False, kv=phase)
    return phase.layers


@cache
def recorded_layers(n: int, kind: str = "llama") -> list[Layer]:
    """The layers of a tiny model of this kind over `context_of(n)`."""
    return record(tiny.model(kind), context_of(n))
