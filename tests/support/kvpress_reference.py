"""What kvpress keeps of one context in tiny models (a group's file in golden/), beside what our presses keep of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from layer_recorder import Recorder
from numpy_weights import KV_HEADS, LAYERS, fingerprint, numbered_model, numbered_tokens
from torch import Tensor

from fairkv_eval.attention.rotation import find_rotations
from fairkv_eval.attention.seam import attach
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.model_statistics import ModelStatistics
from fairkv_eval.eviction.plan import Plan
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press


class Pass(NamedTuple):
    fingerprint: str
    logits: Tensor  # [vocabulary], of the last token
    layers: list[Layer]


class Kept:
    """A watcher that remembers what is kept of each layer: boolean ``[kv_heads, n]``."""

    def __init__(self) -> None:
        self.by_layer: list[Tensor] = []

    def computed(self, layer: Layer, window: int | None) -> None:
        pass

    def kept(self, layer: Layer, index: Sequence[Tensor]) -> None:
        self.by_layer.append(marked(list(index), layer.k.shape[1]))


@cache
def run(kind: str, seed: int, n: int) -> Pass:
    """One uncompressed pass of a numbered model over its numbered tokens."""
    model = numbered_model(kind, seed)
    attach(model)
    phase = Recorder(list(find_rotations(model)))
    with torch.inference_mode():
        ids, places = torch.tensor([numbered_tokens(n, seed)]), torch.arange(n)[None]
        logits = model(input_ids=ids, position_ids=places, use_cache=False, kv=phase).logits[0, -1]
    return Pass(fingerprint(model), logits, phase.layers)


class KvpressReference:
    """The file of a group: see golden/make_kvpress_reference.py."""

    def __init__(self, group: str) -> None:
        self.arrays = dict(np.load(Path(__file__).parents[1] / "golden" / f"kvpress_{group}.npz"))

    @cached_property
    def about(self) -> dict[str, Any]:
        return dict(json.loads(str(self.arrays["about"])))

    @property
    def models(self) -> dict[str, Any]:
        return dict(self.about["models"])

    @property
    def cases(self) -> dict[str, Any]:
        return dict(self.about["cases"])

    @property
    def n(self) -> int:
        return int(self.about["n"])

    def settings(self) -> list[tuple[str, str, float]]:
        """Every (model, case, ratio) of the file."""
        return [(kind, name, ratio) for kind in self.models for name, c in self.cases.items() for ratio in c["ratios"]]

    def run(self, kind: str) -> Pass:
        """Our uncompressed pass of the model that kvpress ran."""
        return run(kind, self.models[kind]["seed"], self.n)

    def policy(self, case: str, ratio: float) -> Policy:
        press = load_press(self.cases[case]["press"], self.cases[case]["base"])
        assert press is not None
        return Policy(press, press.configure(self.cases[case]["parameters"]), ratio)

    def measured(self, kind: str) -> dict[str, Tensor]:
        """What kvpress knows about a model beforehand: ``[layers, ...]`` by name."""
        names = {name: name.removeprefix(f"measured/{kind}/") for name in self.arrays}
        return {short: torch.from_numpy(self.arrays[name]) for name, short in names.items() if short != name}

    def bound(self, kind: str, policy: Policy) -> Policy:
        """The policy with that, if its press needs some."""
        if policy.press is None or not policy.press.needs_statistics:
            return policy
        known = ModelStatistics(self.measured(kind), {})
        return replace(policy, press=policy.press.bound(lambda press: known))

    def theirs(self, kind: str, case: str, ratio: float) -> Tensor:
        """What kvpress keeps: boolean ``[layers, kv_heads, n]``."""
        return torch.from_numpy(self.arrays[f"kept/{kind}/{case}/{ratio}"])

    def ours(self, kind: str, case: str, ratio: float) -> Tensor:
        """What our press keeps: boolean ``[layers, kv_heads, n]``."""
        plan = Plan(self.bound(kind, self.policy(case, ratio)), (), self.n, range(LAYERS))
        return torch.stack([marked(plan.choose(layer), self.n) for layer in self.run(kind).layers])

    def check_whole(self) -> None:
        """Every array is there and has its shape, and our models are those that kvpress ran."""
        wanted = {f"kept/{kind}/{case}/{ratio}" for kind, case, ratio in self.settings()}
        arrays = {name for name in self.arrays if not name.startswith("measured/")}
        assert wanted | {"about", *(f"logits/{kind}" for kind in self.models)} == arrays
        assert all(self.arrays[name].shape == (LAYERS, KV_HEADS, self.n) for name in wanted)
        for kind, model in self.models.items():
            assert self.run(kind).fingerprint == model["fingerprint"]
            assert (self.run(kind).logits - torch.from_numpy(self.arrays[f"logits/{kind}"])).abs().max() < 1e-3


def marked(chosen: list[Tensor], n: int) -> Tensor:
    """Positions head by head as boolean ``[kv_heads, n]``."""
    rows = [head for index in chosen for head in index]
    mask = torch.zeros(len(rows), n, dtype=torch.bool)
    for row, positions in zip(mask, rows, strict=True):
        row[positions] = True
    return mask


def overlap(a: Tensor, b: Tensor) -> float:
    """The part of the pairs kept by either that both keep."""
    return float((a & b).sum() / (a | b).sum())
