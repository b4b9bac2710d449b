"""Measures statistics of a model: one pass over a text, whose layers a rule sees one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fairkv_eval.engine.context import Context
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.phases import Prefill
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.read_only import read_only

Rule = Callable[[Layer], Mapping[str, Tensor]]


@torch.inference_mode()
def measure(
    engine: Engine, tokens: Sequence[int], rule: Rule, label: str, seen: Callable[[int], object] = lambda n: None
) -> dict[str, Tensor]:
    """What a rule of `statistics` makes of each layer over these tokens: float32 ``[layers, ...]`` by name, on the CPU.

    label: what is measured, for errors. seen: called with 1 after each layer. UsageError if the tensors are not finite,
    or not the same in all layers.
    """
    observer = _Observer(rule, label, seen)
    context = Context(tuple(tokens), label, windows=engine.windows, watcher=observer)
    phase = Prefill([context], len(engine.windows), engine.runner.rotations, backend=engine.backend)
    engine.runner.prefill(phase)
    shapes = {tuple((name, tensor.shape) for name, tensor in part.items()) for part in observer.parts}
    if len(shapes) != 1:
        raise UsageError(
            f"{label}: its tensors differ in name or shape from layer to layer: {sorted(map(str, shapes))}"
        )
    return {name: torch.stack([part[name] for part in observer.parts]) for name in observer.parts[0]}


class _Observer:
    """Applies a rule to each layer as soon as it is computed (see `Watcher`)."""

    def __init__(self, rule: Rule, label: str, seen: Callable[[int], object]) -> None:
        self.rule = rule
        self.label = label
        self.seen = seen
        self.parts: list[dict[str, Tensor]] = []

    def computed(self, layer: Layer, window: int | None) -> None:
        with read_only(self.label):
            part = {name: tensor.float().cpu() for name, tensor in self.rule(layer).items()}
        for name, tensor in part.items():
            if not tensor.isfinite().all():
                raise UsageError(f"{self.label}: {name} of layer {layer.index} is not finite")
        self.parts.append(part)
        self.seen(1)

    def kept(self, layer: Layer, index: Sequence[Tensor]) -> None:
        """Nothing is evicted."""
