"""How far two ways of one computation are apart."""

from __future__ import annotations

from torch import Tensor


def deviations(expected: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors of one shape, in standard deviations of the first. NaN if either has one,
    which is not agreement: compare as ``not deviations(…) <= tolerance``."""
    wide = expected.float()
    return float((other.float() - wide).abs().max() / wide.std())
