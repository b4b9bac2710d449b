"""What presses need to know about a model beforehand, layer by layer, from one pass over a text.

A rule is a pure function ``rule(layer, **parameters) -> {name: Tensor}``, from a layer's queries, keys and values of
the text to tensors of the same shapes in every layer. A press with such a rule finds them in `Layer.statistics` later.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer, attention_weights

REACH = 500  # positions at which the mean key stands, as in kvpress


def qfilter(layer: Layer) -> dict[str, Tensor]:
    """``filters`` ``[kv_heads, dim]``: the direction that a head's queries have most in common (arXiv 2503.02812).

    It is the first right singular vector of the matrix of a head's queries, turned to their side; the mean of each
    group's heads.
    """
    queries = layer.q.double()
    principal = torch.linalg.eigh(queries.mT @ queries).eigenvectors[:, :, -1:]  # the largest eigenvalue comes last
    forward = torch.where((queries @ principal).sum(1, keepdim=True) < 0, -principal, principal)
    return {"filters": layer.per_kv_head(forward[:, :, 0])}


def expected_attention(layer: Layer, *, sinks: int) -> dict[str, Tensor]:
    """``mean`` ``[heads, dim]`` and ``covariance`` ``[heads, dim, dim]`` of queries without their rotation, the text's
    first ``sinks`` left out (arXiv 2510.00636)."""
    queries = _unrotated(layer, layer.q)[:, min(sinks, layer.q.shape[1] - 1) :]
    mean = queries.mean(1, keepdim=True)
    deviation = queries - mean
    return {"mean": mean[:, 0], "covariance": deviation.mT @ deviation / max(queries.shape[1] - 1, 1)}


def duo_attention(layer: Layer) -> dict[str, Tensor]:
    """``retrieval`` ``[kv_heads]``: how far from the last position a head looks, from 0 to 1.

    kvpress's measure in the place of DuoAttention's trained one: the text's mean key at each of `REACH` positions, and
    its mean query at the last; the mean of the attention that is summed up from the first position on, which is large
    if early positions get much; the mean of each group's heads.
    """
    positions = torch.arange(REACH, device=layer.k.device)
    query, key = (_unrotated(layer, states).mean(1, keepdim=True) for states in (layer.q, layer.k))
    rotation = _rotation(layer)
    queries = rotation.rotate(query, positions[-1:])
    keys = rotation.rotate(key.expand(-1, REACH, -1), positions)
    weights = attention_weights(queries, keys, layer.scaling, layer.softcap)[:, 0]  # [heads, REACH]
    return {"retrieval": layer.per_kv_head(weights.cumsum(-1).mean(-1, keepdim=True))[:, 0]}


def _unrotated(layer: Layer, states: Tensor) -> Tensor:
    """float32 states ``[any_heads, n, dim]`` as they were before their rotation. UsageError if that is not known."""
    positions = torch.arange(states.shape[1], device=states.device)
    return _rotation(layer).rotate(states.float(), -positions)


def _rotation(layer: Layer) -> Rotation:
    if layer.rotation is None:
        raise UsageError(f"how layer {layer.index} rotates its queries is not known, so they cannot be turned back")
    return layer.rotation
