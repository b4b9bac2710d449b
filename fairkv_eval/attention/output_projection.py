"""What an attention layer makes of its heads' outputs: the matrix that takes them back to the hidden states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from fairkv_eval.errors import UsageError

# As models name it: Llama and most others, OPT and GPT-J, GPT-NeoX and Phi, GPT-2, T5 and InternLM.
NAMES = ("o_proj", "out_proj", "dense", "c_proj", "wo")


@dataclass(frozen=True, eq=False)
class OutputProjection:
    """The output projection of an attention module, looked for only once it is used."""

    attention: nn.Module

    def by_head(self, heads: int, dim: int, device: torch.device) -> Tensor:
        """The part of each query head, without the bias: float32 ``[heads, dim, hidden]``, dim that of a value.

        UsageError if the module has none by the names that are known, or one of another size.
        """
        weight = _weight(self._module(), heads * dim, device)
        if weight.dim() != 2 or weight.shape[0] != heads * dim:
            name = type(self.attention).__name__
            raise UsageError(f"the output projection of {name} does not take {heads} heads of {dim} channels")
        by_head: Tensor = weight.to(device).float().unflatten(0, (heads, dim))
        return by_head

    def _module(self) -> nn.Module:
        for name in NAMES:
            module = getattr(self.attention, name, None)
            if isinstance(module, nn.Module):
                return module
        raise UsageError(
            f"the output projection of {type(self.attention).__name__} is not known; it has no {', '.join(NAMES)}"
        )


def _weight(module: nn.Module, channels: int, device: torch.device) -> Tensor:
    """What the module multiplies a row of so many channels by: ``[channels, hidden]``.

    Quantized weights, adapters, and weights that are elsewhere between two passes say it by what they make of the unit
    vectors.
    """
    weight = getattr(module, "weight", None)
    if type(module) in (nn.Linear, Conv1D) and isinstance(weight, Tensor) and not weight.is_meta:
        return weight.detach() if isinstance(module, Conv1D) else weight.detach().T
    floats = [tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()]
    with torch.no_grad():
        units = torch.eye(channels, dtype=floats[0] if floats else None, device=device)
        made: Tensor = module(units) - module(torch.zeros_like(units[:1]))
    return made
