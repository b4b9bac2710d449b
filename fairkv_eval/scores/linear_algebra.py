"""Leverages, and random sketches: what several rules make of vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from fairkv_eval.eviction.layer import Layer


def leverages(vectors: Tensor, gram: Tensor) -> Tensor:
    """x·G⁻¹·xᵀ of each vector x, at least 0: ``[..., n, dim]`` and positive definite ``[..., dim, dim]`` to float32
    ``[..., n]``.

    The factor of the small matrix is float64: a Gram matrix squares the range of its vectors, and float32 would lose
    the directions that few of them have.
    """
    root = torch.linalg.cholesky(gram.double())
    inverse = torch.linalg.solve_triangular(root, torch.eye(gram.shape[-1], device=gram.device).double(), upper=False)
    whitened: Tensor = vectors.float() @ inverse.float().mT
    return whitened.square().sum(-1)


def sketched(layer: Layer, vectors: Tensor, columns: int) -> Tensor:
    """Vectors times a matrix of Gaussian noise, one per KV head: ``[kv_heads, n, dim]`` to ``[kv_heads, n, columns]``.

    The noise has variance 1 / columns, which keeps norms as they are on average. It is a function of the context's
    tokens and the layer.
    """
    generator = torch.Generator().manual_seed(hash((layer.seed, layer.index)) & (2**63 - 1))
    noise = torch.randn(vectors.shape[0], vectors.shape[2], columns, generator=generator)
    scaled: Tensor = noise.to(vectors.device) * columns**-0.5
    return vectors @ scaled


def standardized(scores: Tensor) -> Tensor:
    """Scores with mean 0 and deviation 1 over all heads and positions; 0 if they differ by no more than rounding."""
    centered = scores - scores.mean()
    deviation = centered.square().sum().div(max(scores.numel() - 1, 1)).sqrt()
    return centered / deviation.masked_fill(deviation <= 1e-5 * scores.abs().max(), float("inf"))
