"""What a kvpress scorer sees of a layer and a span, in place of a transformers attention module and its inputs.

- ``keys`` and ``values``: those of the span alone, ``[1, kv_heads, m, dim]``, after RoPE, in the model's dtype;
- ``attentions``: causal weights of the span's own queries at its keys, ``[1, heads, m, m]`` in float32, normalized over
  every key that the queries see, those before the span included. Only the rows that are read are computed, and a sum
  over the queries is made block by block, so no n×n matrix is held;
- ``hidden_states``: a stand-in that has a shape, can be cut along the tokens, and passed to ``module.q_proj`` and
  ``module.k_proj``, which return the layer's queries and keys without their rotation. The real hidden states never
  reach the seam to transformers, so a scorer that computes with them is refused, never given something else;
- ``kwargs["position_embeddings"]`` and ``module.rotary_emb``: cosines and sines of the layer's rotation. The tokens of
  a span have their positions in the context, and what follows the span begins at the context's end.

A stand-in raises `MissingInput` for anything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer, Span


class ScorerInputs(NamedTuple):
    """The arguments of a scorer's ``score()``."""

    module: Any
    hidden_states: Any
    keys: Tensor
    values: Tensor
    attentions: Any
    kwargs: Any


def scorer_inputs(layer: Layer, span: Span) -> ScorerInputs:
    """What a scorer sees of one span of one layer."""
    inside = slice(span.start, span.stop)
    hidden = _HiddenStates(layer, torch.arange(span.start, span.stop, device=layer.k.device))
    return ScorerInputs(
        _module(layer, span),
        hidden,
        layer.k[None, :, inside],
        layer.v[None, :, inside],
        _Attentions(layer, span),
        _Keywords(layer, hidden),
    )


class MissingInput(AttributeError):
    """Something that a scorer reads and its stand-in does not have; the message names it."""


class _Attributes:
    """Holds these attributes; any other raises `MissingInput`, an AttributeError, so ``hasattr`` works."""

    def __init__(self, name: str, **attributes: Any) -> None:
        self._name = name
        self.__dict__.update(attributes)

    def __getattr__(self, attribute: str) -> Any:
        raise MissingInput(f"{self._name}.{attribute}")


def _module(layer: Layer, span: Span) -> _Attributes:
    """Stands for the attention module of a layer."""
    heads, _, dim = layer.q.shape
    shape = {"num_attention_heads": heads, "num_key_value_heads": layer.kv_heads, "head_dim": dim}
    return _Attributes(
        "module",
        config=_Attributes("module.config", num_hidden_layers=layer.count, **shape),
        layer_idx=layer.index,
        head_dim=dim,
        num_key_value_groups=heads // layer.kv_heads,
        scaling=layer.scaling,
        q_proj=lambda hidden: hidden.unrotated(layer.q),
        k_proj=lambda hidden: hidden.unrotated(layer.k),
        rotary_emb=partial(_rotary, layer, span),
    )


class _HiddenStates:
    """Stands for hidden states ``[1, m, heads·dim]`` of these positions, without their numbers."""

    def __init__(self, layer: Layer, positions: Tensor) -> None:
        self.layer = layer
        self.positions = positions
        self.device = layer.q.device
        self.dtype = layer.q.dtype
        self.shape = torch.Size((1, len(positions), layer.q.shape[0] * layer.q.shape[2]))

    def __getitem__(self, index: Any) -> _HiddenStates:
        batch, tokens, *rest = index if isinstance(index, tuple) and len(index) > 1 else (index, None)
        if not isinstance(tokens, slice) or any(other != slice(None) for other in (batch, *rest)):
            raise MissingInput("the numbers of hidden_states")
        return _HiddenStates(self.layer, self.positions[tokens])

    def unrotated(self, states: Tensor) -> Tensor:
        """States ``[any_heads, n, dim]`` after RoPE to those of the positions before it, ``[1, m, any_heads·dim]``."""
        if self.layer.rotation is None:
            raise UsageError("this model's rotation is not known, so it cannot be taken back")
        before = self.layer.rotation.rotate(states[:, self.positions], -self.positions)
        return before.transpose(0, 1).flatten(1)[None]

    def __getattr__(self, attribute: str) -> Any:
        raise MissingInput(f"hidden_states.{attribute}")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise MissingInput("the numbers of hidden_states")


class _Attentions:
    """Stands for attention weights ``[1, heads, m, m]``, float32, of a span's queries at its keys."""

    def __init__(self, layer: Layer, span: Span) -> None:
        self.layer = layer
        self.span = span
        self.device = layer.q.device
        self.dtype = torch.float32
        self.shape = torch.Size((1, layer.q.shape[0], len(span), len(span)))

    def __getitem__(self, index: Any) -> Tensor:
        if not (isinstance(index, tuple) and len(index) == 3 and index[0] is Ellipsis):
            raise MissingInput("attentions in another form than [..., queries, keys]")
        rows, columns = index[1:]
        start, stop, step = rows.indices(len(self.span))
        if step != 1:
            raise MissingInput("attentions of queries that are not neighbours")
        first, last = self.span.start + start, self.span.start + max(start, stop)
        weights = self.layer.attention(first, last)
        weights = F.pad(weights, (0, self.span.stop - last))[..., self.span.start :]
        return weights[None, ..., columns]

    def sum(self, dim: int) -> Tensor:
        """Over the queries: ``[1, heads, m]``."""
        if dim not in (2, -2):
            raise MissingInput("attentions summed over anything but the queries")
        total = torch.zeros(self.shape[:3], device=self.device)
        for weights in self.layer.attention_blocks(self.span.start, self.span.stop):
            columns = weights[..., self.span.start :].sum(1)
            total[0, :, : columns.shape[1]] += columns
        return total

    def __getattr__(self, attribute: str) -> Any:
        raise MissingInput(f"attentions.{attribute}")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise MissingInput("the whole matrix of attentions")


class _Keywords(Mapping[str, tuple[Tensor, Tensor]]):
    """Stands for the keyword arguments of a layer's forward pass: ``position_embeddings``, made when asked for."""

    def __init__(self, layer: Layer, hidden: _HiddenStates) -> None:
        self.layer = layer
        self.hidden = hidden

    def __getitem__(self, name: str) -> tuple[Tensor, Tensor]:
        if name != "position_embeddings":
            raise MissingInput(f"kwargs[{name!r}]")
        return _cos_sin(self.layer, self.hidden.positions[None], self.hidden.dtype)

    def __contains__(self, name: object) -> bool:
        return name == "position_embeddings"

    def __iter__(self) -> Iterator[str]:
        return iter(("position_embeddings",))

    def __len__(self) -> int:
        return 1


def _rotary(layer: Layer, span: Span, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[1, m, dim]`` at positions ``[1, m]`` that a span counts from its own start."""
    inside = position_ids < len(span)
    behind = layer.k.shape[1] - len(span)
    return _cos_sin(layer, position_ids + inside * span.start + ~inside * behind, x.dtype)


def _cos_sin(layer: Layer, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[..., m, dim]`` of positions ``[..., m]``, channels i and i + dim/2 being a pair."""
    rotation, dim = layer.rotation, layer.k.shape[-1]
    if rotation is None:
        raise UsageError("this model's rotation is not known")
    whole = rotation.layout == "half" and 2 * len(rotation.inv_freq) == dim
    if not (whole or rotation.layout == "none"):
        turned = f"{2 * len(rotation.inv_freq)} of {dim} channels, {rotation.layout}"
        raise UsageError(f"it takes a rotation of all channels in halves, and this model turns {turned}")
    # What is turned is 1 in a pair's first channel and 0 in its second: the cosine and the sine come back.
    ones = torch.arange(dim, device=positions.device) < dim // 2
    cos, sin = rotation.rotate(ones.float().expand(*positions.shape, dim), positions).chunk(2, -1)
    return torch.cat([cos, cos], -1).to(dtype), torch.cat([sin, sin], -1).to(dtype)
