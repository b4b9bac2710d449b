"""Rules that look at what a replay of the context attended to."""

from __future__ import annotations

from torch import Tensor

from fairkv_eval.eviction.layer import Layer, Span


def kvcompose(layer: Layer, span: Span) -> Tensor:
    """The most attention a key got from any query of a replay of the context, averaged over the heads of its group, and
    once more over all heads on top (arXiv 2509.05165).

    ValueError if the context was not replayed.
    """
    if layer.replayed_by_query_head is None:
        raise ValueError("kvcompose scores what a replay of the context attends to, and this context was not replayed")
    of_heads = layer.per_kv_head(layer.replayed_by_query_head[:, span.start : span.stop].float())
    return of_heads + of_heads.mean(0)


def kvzip(layer: Layer, span: Span, *, variant: str = "original") -> Tensor:
    """The most attention a key got from any query of a replay of the context, in any head (arXiv 2505.23416).

    ``variant="plus"``: the most that a pair adds to the layer's output, relative to the hidden state that it is added
    for: attention times the length of v·W, W being the head's part of the output projection, by the length of the
    hidden state that the query comes from (arXiv 2601.07891). The replay has seen to the latter.

    ValueError if the context was not replayed. UsageError if the layer's output projection is not known.
    """
    plus = variant == "plus"
    most = layer.replayed_by_query_head if plus else layer.replayed
    if most is None:
        raise ValueError("kvzip scores what a replay of the context attends to, and this context was not replayed")
    most = most[:, span.start : span.stop].float()
    return layer.most_per_kv_head(most * _output_lengths(layer, span)) if plus else most


def finch(layer: Layer, span: Span) -> Tensor:
    """The mean attention a key got from the queries of what is asked after the context, relative to an even share
    (arXiv 2408.00167).

    The same in a segment as in the context: the whole question votes. ValueError if it was not replayed.
    """
    if layer.replayed_by_query_head is None:
        raise ValueError("finch scores what the question attends to, and it was not run against this context")
    return layer.per_kv_head(layer.replayed_by_query_head[:, span.start : span.stop].float())


def _output_lengths(layer: Layer, span: Span) -> Tensor:
    """Lengths of what values become in the layer's output: ``[heads, len(span)]``."""
    if layer.output is None:
        raise ValueError("kvzip looks at the output projection of a layer, and this layer was made without")
    heads = layer.q.shape[0]
    v = layer.v[:, span.start : span.stop].double().repeat_interleave(heads // layer.kv_heads, 0)
    weight = layer.output.by_head(heads, v.shape[-1], v.device).double()
    # |v·W|² = v·(W·Wᵀ)·vᵀ, so that nothing as wide as the hidden states is held for each pair.
    squares = (v @ (weight @ weight.mT) * v).sum(-1)
    return squares.clamp(min=0).sqrt().float()
