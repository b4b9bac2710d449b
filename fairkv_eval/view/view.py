"""What a policy keeps of one context, layer by layer and head by head, beside how concentrated attention is there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import Layer
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.segments import Segment

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from fairkv_eval.model import FairKV

TOP = 0.1  # the part of the positions whose attention `Concentration.top` sums


@dataclass(frozen=True)
class Concentration:
    """How much of a layer's attention falls on few tokens.

    Of each query head the attention is averaged over the context's queries, which gives every token a share, all shares
    together 1; figures are means over the heads. ``entropy``: of the shares, divided by ln n, from 0 (one token has it
    all) to 1 (all have the same). ``top``: what the tenth of the tokens with the largest shares has. ``held``: what the
    kept tokens have. That attention spreads widely in the lower layers and gathers on few tokens in the upper ones is
    what PyramidKV's budgets are built on (arXiv 2406.02069); it shows maps of attention, these figures are ours.
    """

    entropy: float
    top: float
    held: float


@dataclass(frozen=True)
class LayerView:
    """One layer: ``share`` of the heads that keep each position, how many pairs each head keeps, and its attention.

    A layer with a sliding ``window`` keeps that and is not compressed; its attention is not looked at.
    """

    index: int
    share: list[float]
    kept: list[int]
    window: int | None = None
    concentration: Concentration | None = None


@dataclass(frozen=True)
class View:
    """One document under one policy. ``tokens``: the prompt's, as text; the first ``context`` of them could be evicted.

    ``segments`` are ranges of tokens; ``keep_rates`` and ``keep_rate`` as responses tell them. ``answer`` is what a
    finished run has generated.
    """

    task: str
    doc_id: int
    policy: Policy
    tokens: list[str]
    context: int
    segments: list[Segment]
    layers: list[LayerView]
    keep_rate: float
    keep_rates: dict[str, float]
    answer: str | None = None

    @property
    def compressed(self) -> list[LayerView]:
        return [layer for layer in self.layers if layer.window is None]

    @property
    def mean_share(self) -> list[float]:
        """The share of layers and heads that keep each position, over the layers that are compressed."""
        layers = self.compressed or self.layers
        return [sum(column) / len(layers) for column in zip(*(layer.share for layer in layers), strict=True)]

    @property
    def title(self) -> str:
        return self.policy.label

    def describe(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            **{field.name: getattr(self, field.name) for field in fields(self)},
            "policy": self.policy.describe(),
            "segments": [segment._asdict() for segment in self.segments],
            "layers": [asdict(layer) for layer in self.layers],
            "mean_share": self.mean_share,
        }


@dataclass(eq=False)
class Looker:
    """Watches a prefill and makes a layer's view of it."""

    layers: list[LayerView] = field(default_factory=list)
    _seen: dict[int, tuple[Tensor | None, int | None]] = field(default_factory=dict)

    def computed(self, layer: Layer, window: int | None) -> None:
        """Note how a layer's attention is shared out: float32 ``[heads, n]``, in blocks of queries."""
        n = layer.k.shape[1]
        self._seen[layer.index] = (layer.column_sums(0, n) / n if window is None else None), window

    def kept(self, layer: Layer, index: Sequence[Tensor]) -> None:
        shares, window = self._seen.pop(layer.index)
        n = layer.k.shape[1]
        heads = [head for part in index for head in part]
        mask = torch.zeros(len(heads), n, device=layer.k.device)
        for row, head in zip(mask, heads, strict=True):
            row[head] = 1
        found = None if shares is None else concentration(shares, mask)
        counts = [len(head) for head in heads]
        self.layers.append(LayerView(layer.index, mask.mean(0).tolist(), counts, window, found))


def concentration(shares: Tensor, mask: Tensor) -> Concentration:
    """From attention shares ``[heads, n]`` and what each KV head keeps, ``[kv_heads, n]`` of zeros and ones."""
    heads, n = shares.shape
    entropy = torch.special.entr(shares).sum(-1).mean() / math.log(n) if n > 1 else torch.tensor(0.0)
    top = shares.topk(math.ceil(TOP * n), -1).values.sum(-1).mean()
    held = (shares * mask.repeat_interleave(heads // len(mask), 0)).sum(-1).mean()
    return Concentration(float(entropy), float(top), float(held))


def look(lm: FairKV, request: Instance, answer: str | None = None) -> View:
    """Run the context of a request again, under the model's policy, and see what survives.

    Eviction is deterministic, so this is what a run with the same arguments has kept.
    """
    looker = Looker()
    job, cache = lm.watch(request, looker)
    prompt = job.prompt
    layers = sorted(looker.layers, key=lambda layer: layer.index)
    rates = cache.segments or {segment.name: 1.0 for segment in prompt.segments}
    return View(
        str(request.task_name),
        int(request.doc_id or 0),
        job.policy,
        words(prompt.tokens, lambda tokens: lm.tok_decode(tokens, skip_special_tokens=False)),
        prompt.context_length,
        list(prompt.segments),
        layers,
        cache.pairs / cache.full_pairs,
        rates,
        answer,
    )


def words(tokens: Sequence[int], decode: Callable[[list[int]], str]) -> list[str]:
    """The text of each token; where several make one character, the last of them carries it."""
    found: list[str] = []
    before = done = 0  # a few tokens before each one tell the white space that a text begins with
    for i in range(len(tokens)):
        known, text = decode(list(tokens[before:done])), decode(list(tokens[before : i + 1]))
        whole = not text.endswith("\ufffd") or i == len(tokens) - 1
        found.append(text[len(known) :] if whole else "")
        if whole:
            before, done = done, i + 1
    return found


def bins(values: Sequence[float], count: int) -> list[float]:
    """Means over ``count`` stretches of (nearly) the same length, or the values where they are no more than that."""
    n = len(values)
    if n <= count:
        return list(values)
    edges = [i * n // count for i in range(count + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
