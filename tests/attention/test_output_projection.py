"""Output projections, found on tiny models of many kinds, against what the attention modules make of random heads."""

from __future__ import annotations

import pytest
import tiny
import torch
from layer_recorder import record
from torch import Tensor, nn

from fairkv_eval.attention.output_projection import NAMES, OutputProjection
from fairkv_eval.errors import UsageError

CPU = torch.device("cpu")


def attention_with(name: str, projection: nn.Module) -> nn.Module:
    module = nn.Module()
    module.add_module(name, projection)
    return module


@pytest.mark.parametrize(
    "kind", ["llama", "qwen3", "mistral", "phi3", "gemma2", "olmo2", "starcoder2", "opt", "gpt2", "gpt_neox"]
)
def test_of_a_model_is_what_its_module_does_without_the_bias(kind: str) -> None:
    for layer in record(tiny.model(kind), [1, 2, 3]):
        assert layer.output is not None
        heads, dim = len(layer.q), layer.v.shape[2]
        by_head = layer.output.by_head(heads, dim, CPU)
        attention = layer.output.attention
        module = next(getattr(attention, name) for name in NAMES if hasattr(attention, name))
        x = torch.randn(5, heads, dim)
        expected = module(x.flatten(1)) - module(torch.zeros(1, heads * dim))
        assert by_head.dtype == torch.float32 and by_head.shape == (heads, dim, expected.shape[1])
        torch.testing.assert_close(torch.einsum("nhd,hdo->no", x, by_head), expected, atol=1e-5, rtol=1e-4)


class Adapted(nn.Module):
    """A projection whose weight is not what it multiplies by, as those of adapters and of quantized models."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * 2


def test_of_a_module_with_another_weight_is_what_it_makes_of_unit_vectors() -> None:
    base = nn.Linear(8, 5)
    found = OutputProjection(attention_with("o_proj", Adapted(base))).by_head(2, 4, CPU)
    torch.testing.assert_close(found.flatten(0, 1), 2 * base.weight.T)


def test_half_precision_is_made_float32() -> None:
    base = nn.Linear(8, 5).bfloat16()
    found = OutputProjection(attention_with("dense", base)).by_head(2, 4, CPU)
    assert found.dtype == torch.float32 and torch.equal(found.flatten(0, 1), base.weight.T.float())


def test_none_by_a_known_name_is_refused() -> None:
    with pytest.raises(UsageError, match="output projection of Module is not known; it has no o_proj, out_proj, dense"):
        OutputProjection(attention_with("projection_out", nn.Linear(8, 5))).by_head(2, 4, CPU)


@pytest.mark.parametrize("heads, dim", [(3, 4), (2, 2)])
def test_one_of_another_size_is_refused(heads: int, dim: int) -> None:
    with pytest.raises(UsageError, match=rf"output projection of Module does not take {heads} heads of {dim} channels"):
        OutputProjection(attention_with("o_proj", nn.Linear(8, 5))).by_head(heads, dim, CPU)
