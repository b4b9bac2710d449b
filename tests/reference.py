"""The slow reference of the engine: the whole sequence again for every token, dense attention, evicted pairs masked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention import Options
from fairkv_eval.evict import kept, n_kept, ranges
from fairkv_eval.policy import Policy
from fairkv_eval.prompt import Segment
from fairkv_eval.scores import Layer


class Dense:
    """Plain softmax attention over one sequence; ``visible[layer][head]`` are the context's surviving positions."""

    def __init__(self, context: int, visible: list[Tensor] | None = None) -> None:
        self.context = context
        self.visible = visible
        self.layers: list[Layer] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scaling: float, options: Options) -> Tensor:
        layer = len(self.layers)
        self.layers.append(Layer(q[0], k[0], v[0], scaling, layer, softcap=options.softcap))
        heads, n = q.shape[1], q.shape[2]
        out = torch.zeros_like(q[0])
        for head in range(heads):
            group = head * k.shape[1] // heads
            for i in range(n):
                keys = [j for j in range(i + 1) if self._sees(layer, group, i, j, options.window)]
                logits = k[0, group, keys] @ q[0, head, i] * scaling
                if options.softcap:
                    logits = torch.tanh(logits / options.softcap) * options.softcap
                out[head, i] = logits.softmax(-1) @ v[0, group, keys]
        return out.transpose(0, 1)[None]

    def _sees(self, layer: int, group: int, i: int, j: int, window: int | None) -> bool:
        if window is not None:
            return j > i - window
        if self.visible is None or i < self.context or j >= self.context:
            return True
        return j in self.visible[layer][group]


@torch.inference_mode()
def logits_of(model: PreTrainedModel, tokens: Sequence[int], phase: Dense) -> Tensor:
    """Logits ``[n, vocabulary]`` of a whole sequence through the reference."""
    n = len(tokens)
    ids, places = torch.tensor([list(tokens)]), torch.arange(n)[None]
    return model(input_ids=ids, position_ids=places, use_cache=False, kv=phase).logits[0].float()


def survivors(
    model: PreTrainedModel, context: Sequence[int], segments: Sequence[Segment], policy: Policy, seed: int = 0
) -> list[Tensor] | None:
    """Kept positions of every layer, from the queries and keys of an uncompressed pass over the context."""
    if not policy.evicts or not context:
        return None
    phase = Dense(len(context))
    logits_of(model, context, phase)
    spans = ranges([s.start for s in segments], len(context))
    keep = torch.zeros(len(context), dtype=torch.bool)
    for s in segments:
        keep[s.start : s.stop] |= s.name in policy.keep
    budget = n_kept(len(context), policy.ratio)
    chosen = []
    for layer in phase.layers:
        layer = Layer(layer.q, layer.k, layer.v, layer.scaling, layer.index, 3, seed, layer.softcap)
        chosen.append(kept(policy.scorer(layer), spans, budget, policy.fair, keep))
    return [c.tolist() for c in chosen]  # type: ignore[misc]


def greedy(model: PreTrainedModel, tokens: Sequence[int], context: int, visible: list | None, steps: int) -> list[int]:
    """Greedy continuation, one dense pass over everything a token."""
    tokens, start = list(tokens), len(tokens)
    for _ in range(steps):
        tokens.append(int(logits_of(model, tokens, Dense(context, visible))[-1].argmax()))
    return tokens[start:]
