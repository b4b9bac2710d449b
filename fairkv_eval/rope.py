"""How each layer turns queries and keys by their position, measured on the model and not assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True, eq=False)
class Rotation:
    """The rotary embedding of one layer."""

    layout: str
    inv_freq: Tensor

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """``x`` ``[..., n, dim]`` turned on by ``positions`` (any sign, broadcast to ``[..., n]``)."""
        raise NotImplementedError

    def mean(self, start: int, stop: int) -> Tensor:
        """The mean over positions [start, stop) of the rotation matrix: float32 ``[dim, dim]``, applied as R @ x."""
        raise NotImplementedError


def find_rotations(model: PreTrainedModel) -> Sequence[Rotation | None]:
    """The rotation of each attention layer of a model attached to the seam; None where its keys are not rotations."""
    raise NotImplementedError
