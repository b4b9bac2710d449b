"""Evicted pairs merged into kept ones, in place of being dropped: ``merge=`` of a policy.

A merge changes values (d2o: keys too) of kept pairs, never their number or positions. A pair is merged within its own
head and its own span only, so under fair eviction nothing crosses a segment. Whitelisted pairs take nothing in: they
survive as they are, and what is merged into an attention sink would be read by every query.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fairkv_eval.eviction.layer import Layer, Span, block_rows

CAM_WINDOW = 32  # kept pairs that share what cam merges, as in kvpress
D2O_NEWEST = 0.7  # the weight of the newest eviction in d2o's moving threshold

_EPSILON = 1e-6  # keeps the cosine and the share of a zero vector finite
_ROUNDING = 1e-6  # by which cosines of equal keys may differ


class Merged(NamedTuple):
    """A layer whose kept pairs hold what was merged into them, and how many evicted pairs that was, over all heads.

    thresholds: the similarity from which d2o merged, float64 ``[kv_heads, spans]``; NaN if nothing could be merged.
    """

    layer: Layer
    n_pairs: int = 0
    thresholds: Tensor | None = None


class Heads(NamedTuple):
    """Heads of a layer that keep equally many: keys and values ``[heads, n, dim]``; the positions of evicted pairs
    ``[heads, e]`` and of kept pairs that may take one in ``[heads, m]``, ascending."""

    keys: Tensor
    values: Tensor
    evicted: Tensor
    absorbing: Tensor


class Nearest(NamedTuple):
    """For each evicted pair ``[heads, e]`` the cosine of its key and the most similar one of the absorbing pairs of its
    span, and that one's place among the absorbing pairs; minus infinity and 0 if its span has none."""

    similarity: Tensor
    place: Tensor


def merge(
    rule: str,
    layer: Layer,
    index: Sequence[Tensor],
    spans: Sequence[Span],
    whitelisted: Tensor | None = None,
    thresholds: Tensor | None = None,
) -> Merged:
    """Merge the evicted pairs of a layer by a rule that looks at keys and values: "similar" or "d2o".

    index: kept positions, as from `Plan.choose`. spans: they cover the layer. whitelisted: boolean, one for each
    position or ``[kv_heads, n]``. thresholds: those of the eviction before this one.
    """
    if rule not in ("similar", "d2o") or all(part.shape[1] == layer.k.shape[1] for part in index):
        return Merged(layer)
    keys, values, count, seen, first = layer.k.clone(), layer.v.clone(), 0, [], 0
    for part in index:
        at = slice(first, first := first + len(part))
        heads = heads_of(keys[at], values[at], part, None if whitelisted is None else _rows(whitelisted, layer)[at])
        nearest = nearest_of(heads, spans)
        if rule == "similar":
            count += _merge_similar(heads, nearest)
        else:
            before = None if thresholds is None else thresholds[at]
            seen.append(d2o_thresholds(heads, nearest, spans, before))
            count += _merge_d2o(heads, nearest, spans, seen[-1])
    return Merged(replace(layer, k=keys, v=values), count, torch.cat(seen) if seen else None)


def merge_cam(
    layer: Layer,
    index: Tensor,
    whitelisted: Tensor,
    candidates: Tensor,
    attention: Tensor,
    noise: Tensor,
) -> Merged:
    """Merge evicted pairs by CaM's rule (Zhang et al., ICML 2024).

    A candidate's value is added, in equal parts, to the `CAM_WINDOW` kept pairs that follow it, with the probability of
    its attention divided by their mean attention. index: kept positions ``[kv_heads, m]``; candidates: evicted ones,
    ascending, ``[kv_heads, c]``, each with uniform noise in [0, 1). attention: what each pair has received so far,
    ``[kv_heads, n]``.
    """
    heads = heads_of(layer.k, layer.v.clone(), index, whitelisted)
    m, dim = heads.absorbing.shape[1], layer.v.shape[2]
    if not m or not candidates.shape[1]:
        return Merged(layer)
    first = torch.searchsorted(heads.absorbing, candidates, right=True)
    places = first[..., None] + torch.arange(CAM_WINDOW, device=first.device)
    follows = places < m
    n_following = follows.sum(-1)
    places = places.clamp(max=m - 1)
    window = heads.absorbing.gather(1, places.flatten(1)).view_as(places)  # [kv_heads, c, CAM_WINDOW]
    around = (attention.gather(1, window.flatten(1)).view_as(places) * follows).sum(-1) / n_following.clamp(min=1)
    merges = noise * around < attention.gather(1, candidates)  # that is noise < attention / around, and never 0 < 0
    merges &= n_following > 0
    share = (merges / n_following.clamp(min=1))[..., None, None] * follows[..., None]
    parts = _at(heads.values, candidates).float()[:, :, None] * share
    total = torch.zeros(layer.v.shape, device=parts.device)
    total.scatter_add_(1, window.flatten(1)[..., None].expand(-1, -1, dim), parts.flatten(1, 2))
    changed = (heads.values.float() + total).to(layer.v.dtype)
    return Merged(replace(layer, v=changed), int(merges.sum()))


def heads_of(keys: Tensor, values: Tensor, kept: Tensor, whitelisted: Tensor | None) -> Heads:
    """Heads ``[heads, n, dim]`` that keep the positions ``[heads, m]``. whitelisted: boolean ``[heads, n]``; all of
    these heads have equally many of them."""
    stays = torch.zeros(keys.shape[:2], dtype=torch.bool, device=keys.device).scatter_(1, kept, True)
    absorbs = stays if whitelisted is None else stays & ~whitelisted
    evicted, absorbing = (mask.nonzero()[:, 1].reshape(len(keys), -1).contiguous() for mask in (~stays, absorbs))
    return Heads(keys, values, evicted, absorbing)


def nearest_of(heads: Heads, spans: Sequence[Span]) -> Nearest:
    """The most similar absorbing pair of each evicted one's span, in blocks of bounded size."""
    evicted, absorbing = heads.evicted, heads.absorbing
    similarity = torch.full(evicted.shape, -math.inf, device=evicted.device)
    place = torch.zeros_like(evicted)
    candidates = F.normalize(_at(heads.keys, absorbing).float(), dim=-1, eps=_EPSILON)
    of_evicted, of_absorbing = _owners(evicted, spans), _owners(absorbing, spans)
    rows = block_rows(len(evicted), absorbing.shape[1])
    for first in range(0, evicted.shape[1], rows):
        at = slice(first, first + rows)
        low, high = _overlap(of_evicted[:, at], of_absorbing) if len(spans) > 1 else (0, absorbing.shape[1])
        if low >= high:
            continue
        keys = F.normalize(_at(heads.keys, evicted[:, at]).float(), dim=-1, eps=_EPSILON)
        cosines = keys @ candidates[:, low:high].mT
        if len(spans) > 1:
            cosines.masked_fill_(of_evicted[:, at, None] != of_absorbing[:, None, low:high], -math.inf)
        similarity[:, at], best = cosines.max(-1)
        place[:, at] = best + low
    return Nearest(similarity, place)


def d2o_thresholds(heads: Heads, nearest: Nearest, spans: Sequence[Span], before: Tensor | None) -> Tensor:
    """The similarity from which a pair is merged, by head and span: float64 ``[heads, spans]``.

    It is the mean similarity of the evicted pairs of this head and span; after an earlier eviction, the moving mean of
    both. NaN if there was never one.
    """
    owner, similarity = _owners(heads.evicted, spans), nearest.similarity.double()
    exists = similarity > -math.inf
    counts = similarity.new_zeros(len(owner), len(spans)).scatter_add_(1, owner, exists.double())
    sums = torch.zeros_like(counts).scatter_add_(1, owner, similarity.where(exists, torch.zeros_like(similarity)))
    newest = sums / counts
    if before is None:
        return newest
    moved = D2O_NEWEST * newest + (1 - D2O_NEWEST) * before
    return moved.where(~moved.isnan(), newest.where(~newest.isnan(), before))


def _merge_similar(heads: Heads, nearest: Nearest) -> int:
    """Average each evicted value into the kept pair of the most similar key, as kvpress's MergingPress does: weighted
    by the similarity, if that is positive, and by the evicted value's share of both values' norms."""
    if not heads.absorbing.shape[1]:
        return 0
    norms = heads.values.float().norm(dim=-1)
    evicted = norms.gather(1, heads.evicted)
    kept = norms.gather(1, heads.absorbing).gather(1, nearest.place)
    weights = nearest.similarity.clamp(min=0) * evicted / (evicted + kept + _EPSILON)
    _absorb(heads.values, heads, nearest.place, weights, 1.0)
    return int((weights > 0).sum())


def _merge_d2o(heads: Heads, nearest: Nearest, spans: Sequence[Span], thresholds: Tensor) -> int:
    """Average the evicted pairs at or above the threshold into their nearest ones, keys and values alike, weighted by
    exp(similarity); a kept pair's own weight is exp(1) (arXiv 2406.13035)."""
    if not heads.absorbing.shape[1]:
        return 0
    least = thresholds.gather(1, _owners(heads.evicted, spans))
    merges = nearest.similarity.double() >= least - _ROUNDING  # never true of NaN
    weights = nearest.similarity.exp() * merges
    for states in (heads.keys, heads.values):
        _absorb(states, heads, nearest.place, weights, math.e)
    return int(merges.sum())


def _absorb(states: Tensor, heads: Heads, place: Tensor, weights: Tensor, own_weight: float) -> None:
    """Put into every absorbing pair's state the mean of itself, of weight ``own_weight``, and of the evicted ones whose
    ``place`` it is, of these weights ``[heads, e]``; one that takes nothing in keeps its bits."""
    kept = _at(states, heads.absorbing)
    parts = _at(states, heads.evicted).float() * weights[..., None]
    sums = (own_weight * kept.float()).scatter_add_(1, place[..., None].expand_as(parts), parts)
    taken = torch.zeros(kept.shape[:2], device=states.device).scatter_add_(1, place, weights)
    changed = (sums / (own_weight + taken)[..., None]).to(states.dtype).where((taken > 0)[..., None], kept)
    states.scatter_(1, heads.absorbing[..., None].expand_as(changed), changed)


def _owners(positions: Tensor, spans: Sequence[Span]) -> Tensor:
    """The number of the span of each position."""
    edges = torch.tensor([span.stop for span in spans], device=positions.device)
    return torch.searchsorted(edges, positions, right=True)


def _overlap(owners: Tensor, others: Tensor) -> tuple[int, int]:
    """The range of ``others`` outside of which no head has a span of ``owners``; both ``[heads, m]`` ascend."""
    low = torch.searchsorted(others, owners[:, :1].contiguous()).min()
    high = torch.searchsorted(others, owners[:, -1:].contiguous(), right=True).max()
    return int(low), int(high)


def _rows(whitelisted: Tensor, layer: Layer) -> Tensor:
    return whitelisted.expand(layer.k.shape[:2])


def _at(states: Tensor, positions: Tensor) -> Tensor:
    """The states at these positions, head by head: ``[heads, n, dim]`` and ``[heads, m]``."""
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[2]))
