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


def kvzip(layer: Layer, span: Span) -> Tensor:
    """The most attention a key got from any query of a replay of the context, in any head (arXiv 2505.23416).

    ValueError if the context was not replayed.
    """
    if layer.replayed is None:
        raise ValueError("kvzip scores what a replay of the context attends to, and this context was not replayed")
    return layer.replayed[:, span.start : span.stop].float()


def finch(layer: Layer, span: Span) -> Tensor:
    """The mean attention a key got from the queries of what is asked after the context, relative to an even share
    (arXiv 2408.00167).

    The same in a segment as in the context: the whole question votes. ValueError if it was not replayed.
    """
    if layer.replayed_by_query_head is None:
        raise ValueError("finch scores what the question attends to, and it was not run against this context")
    return layer.per_kv_head(layer.replayed_by_query_head[:, span.start : span.stop].float())
