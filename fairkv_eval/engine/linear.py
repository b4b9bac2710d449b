"""Linear layers on a CPU whose matrices oneDNN has put in the order in which it multiplies them, once for all passes.

torch's own linear layer leaves a matrix as the model has it, so that every pass reads it in that order or copies it
into another. Few tokens pay most for that: those of a decode step. The matrices are held twice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairkv_eval.engine.agreement import deviations
from fairkv_eval.errors import UsageError, first_line

TORCH, ONEDNN = "torch", "onednn"
LINEAR = (TORCH, ONEDNN)

_DTYPES = (torch.float32, torch.bfloat16)
_TOKENS = 64  # of a pass, for which oneDNN chooses the order; others use the same
# Largest difference from torch's product that rounding explains, in standard deviations of the products. Measured:
# float32 3e-6, bfloat16 one unit in the last of 8 bits.
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05}


class ReorderedLinear(nn.Linear):
    """A linear layer beside its matrix in oneDNN's order. It has the parameters of the layer that it replaces."""

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.reordered = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _TOKENS)
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., in_features]`` to ``[..., out_features]``; torch multiplies if the matrix is of another type."""
        if input.dtype != self.weight.dtype or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(input, self.reordered, self.bias, "none", [], "")
        return product


def reorder(model: nn.Module) -> None:
    """Replace a model's linear layers on the CPU in float32 or bfloat16 by reordered ones.

    UsageError if there are none, or if this torch or this processor cannot multiply them so.
    """
    places = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    linears = [(parent, name, child) for parent, name, child in places if isinstance(child, nn.Linear) and _fits(child)]
    if not linears:
        raise _refusal("the model has no linear layer on the CPU in float32 or bfloat16")
    try:
        replaced = {child: ReorderedLinear(child) for _, _, child in linears}
        _check(replaced)
    except (AttributeError, RuntimeError) as error:
        raise _refusal(f"this torch or processor cannot do it: {first_line(error)}") from error
    for parent, name, child in linears:
        setattr(parent, name, replaced[child])


def _fits(module: nn.Linear) -> bool:
    # An instance with a `forward` of its own loads its matrix first, from a disk or another device.
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    return module.weight.device.type == "cpu" and module.weight.dtype in _DTYPES


@torch.inference_mode()
def _check(replaced: dict[nn.Linear, ReorderedLinear]) -> None:
    """Products are checked, not trusted: one of each shape on two random tokens."""
    by_shape = {(*linear.weight.shape, linear.bias is None): linear for linear in replaced}
    for linear in by_shape.values():
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randn(2, linear.in_features, generator=generator).to(linear.weight.dtype)
        difference = deviations(linear(tokens), replaced[linear](tokens))
        if not difference <= _TOLERANCE[linear.weight.dtype]:
            raise RuntimeError(f"products differ from torch's by {difference:.2g} standard deviations")


def _refusal(reason: str) -> UsageError:
    return UsageError(f"linear={ONEDNN!r} cannot run here: {reason}. linear={TORCH} runs everywhere")
