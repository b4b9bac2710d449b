"""Statistics of a model as a press finds them, and the file that holds them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.layer import Layer
from fairkv_eval.files import write

TEXT = Path(__file__).with_name("statistics_text.txt")


def text() -> str:
    """The text that statistics are measured on, written for this purpose."""
    return TEXT.read_text(encoding="utf-8")


class ModelStatistics:
    """Tensors that a rule of `statistics` made of every layer of a model.

    tensors: float32 by name, ``[layers, ...]``. about: what they are, as plain texts; ``model`` and ``statistics`` are
    the digest of the model's sources and the name of the rule.
    """

    def __init__(self, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
        self.tensors = dict(sorted(tensors.items()))
        self.about = dict(about)
        self._placed: dict[tuple[int, torch.device], dict[str, Tensor]] = {}

    def of(self, layer: Layer) -> Mapping[str, Tensor]:
        """A layer's part, on the layer's device."""
        place = layer.index, layer.k.device
        if place not in self._placed:
            self._placed[place] = {name: t[layer.index].to(layer.k.device) for name, t in self.tensors.items()}
        return self._placed[place]

    def of_all(self, layer: Layer) -> Mapping[str, Tensor]:
        """All layers' parts, ``[layers, ...]``, on the CPU; ``layer``: any of them."""
        return self.tensors

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the tensors' names, shapes and numbers."""
        total = hashlib.sha256()
        for name, tensor in self.tensors.items():
            total.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
        return total.hexdigest()

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def write(self, path: Path) -> Path:
        """Write a safetensors file, whole or not at all. UsageError if that is not possible."""
        return write(path, save({name: t.contiguous() for name, t in self.tensors.items()}, self.about))

    @classmethod
    def read(cls, path: Path) -> ModelStatistics:
        """The statistics in a safetensors file. UsageError names the file if it is another kind of file, or if it holds
        numbers that are not finite."""
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118  # not a mapping
        except OSError as error:
            raise UsageError(f"statistics {str(path)!r} cannot be read ({error.strerror or error})") from error
        except SafetensorError as error:
            raise UsageError(
                f"statistics {str(path)!r} are not a safetensors file, and no other format is read ({error})"
            ) from error
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise UsageError(f"statistics {str(path)!r}: {name} holds numbers that are not finite")
        return cls(tensors, about)
