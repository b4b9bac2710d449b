"""Linear layers in oneDNN's order: torch's products, in the layers that can, and a reason if none can."""

from __future__ import annotations

import engine_runs
import press_table
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fairkv_eval.attention.output_projection import OutputProjection
from fairkv_eval.engine import linear as linear_module
from fairkv_eval.engine.attach import attach_chosen
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.linear import ReorderedLinear, reorder
from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV

if not torch.backends.mkldnn.is_available():
    pytest.skip("this torch has no oneDNN", allow_module_level=True)

ATOL = {torch.float32: 1e-5, torch.bfloat16: 2**-6}
try:
    ReorderedLinear(nn.Linear(4, 4).bfloat16())(torch.ones(1, 4).bfloat16())
except RuntimeError:  # a processor without the instructions
    del ATOL[torch.bfloat16]


def reordered(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, ReorderedLinear)]


@given(
    st.sampled_from([1, 2, 3, 7, 64, 65]),
    st.sampled_from([1, 3, 16, 100]),
    st.sampled_from([1, 5, 48]),
    st.booleans(),
    st.sampled_from(sorted(ATOL, key=str)),
)
@settings(max_examples=80, deadline=None)
def test_products_are_those_of_loops(tokens: int, inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(tokens)
    plain = nn.Linear(inputs, outputs, bias).to(dtype)
    states = torch.randn(1, tokens, inputs).to(dtype)
    products = ReorderedLinear(plain)(states).detach()
    weight, offset = plain.weight.double().tolist(), plain.bias.double().tolist() if bias else [0.0] * outputs
    expected = [
        [sum(w * x for w, x in zip(row, token, strict=True)) + b for row, b in zip(weight, offset, strict=True)]
        for token in states[0].double().tolist()
    ]
    assert products.dtype == dtype
    torch.testing.assert_close(
        products[0].double(), torch.tensor(expected).double(), atol=ATOL[dtype], rtol=ATOL[dtype]
    )


@pytest.mark.parametrize("dtype", sorted(ATOL, key=str))
def test_products_of_a_token_do_not_depend_on_the_tokens_beside_it(dtype: torch.dtype) -> None:
    """In bfloat16 on a processor with AMX they may, by the rounding of a sum."""
    layer = ReorderedLinear(nn.Linear(576, 192, bias=False).to(dtype))
    states = torch.randn(64, 576).to(dtype)
    together = layer(states)
    amx = getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16", False)
    rounding = {"atol": 2**-8, "rtol": 2**-7} if amx and dtype == torch.bfloat16 else {"atol": 0, "rtol": 0}
    for n in (2, 3, 17, 40):
        torch.testing.assert_close(layer(states[:n]), together[:n], **rounding)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_the_engine_finds_what_the_slow_reference_says(kind: str) -> None:
    model = tiny.model(kind, **engine_runs.SIZES.get(kind, {}))
    before = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    reorder(model)
    assert {*reordered(model)} == before != set()
    own = [engine_runs.prompt(seed, n=14 + seed, context=10, cut=5) for seed in range(3)]
    wants = [Generation(5), LogLikelihood((7, 8, 9)), Generation(4)]
    jobs = [Job(prompt, press_table.policy("tova"), want, "tiny") for prompt, want in zip(own, wants, strict=True)]
    engine_runs.check((model, attach_checked(model)), jobs)


def test_a_model_keeps_its_tensors_and_its_tied_matrix() -> None:
    model = tiny.model(tie_word_embeddings=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reorder(model)
    after = model.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_rules_read_the_output_projection_as_before() -> None:
    model = tiny.model()
    attention = next(m for m in model.modules() if hasattr(m, "o_proj"))
    heads = model.config.num_attention_heads
    shape = heads, attention.o_proj.in_features // heads, torch.device("cpu")
    before = OutputProjection(attention).by_head(*shape)
    reorder(model)
    assert torch.equal(OutputProjection(attention).by_head(*shape), before)


def test_layers_that_cannot_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another type, a matrix elsewhere, one that is loaded for each pass."""
    model = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("plain", "wide", "meta", "loaded")})
    model["wide"].double()
    model["meta"] = nn.Linear(4, 4, device="meta")
    model["loaded"].forward = lambda states: states  # as accelerate does
    reorder(model)
    assert reordered(model) == ["plain"]
    model.pop("plain")
    with pytest.raises(UsageError, match=r"linear='onednn' cannot run here: the model has no linear layer on the CPU"):
        reorder(model)


def test_states_of_another_type_go_to_torch() -> None:
    plain = nn.Linear(8, 8)
    layer, states = ReorderedLinear(plain), torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(states)
        assert found.dtype == torch.bfloat16 and torch.equal(found, plain(states))


@pytest.mark.parametrize(
    "failure, message",
    [
        (
            RuntimeError("bf16 path needs avx512\nat /somewhere"),
            "this torch or processor cannot do it: bf16 path needs",
        ),
        (AttributeError("no attribute '_linear_pointwise'"), "cannot do it: no attribute"),
        (None, "products differ from torch's by"),
    ],
)
def test_products_that_fail_or_differ_are_refused_and_nothing_is_replaced(failure, message, monkeypatch) -> None:
    def wrong(self, states):
        if failure:
            raise failure
        return nn.Linear.forward(self, states) * 1.01

    monkeypatch.setattr(linear_module.ReorderedLinear, "forward", wrong)
    model = tiny.model()
    with pytest.raises(UsageError, match=f"{message}.*linear=torch runs everywhere"):
        reorder(model)
    assert not reordered(model)


def test_the_argument_and_the_identity() -> None:
    plain, other = (FairKV(tiny.model(), tokenizer=tiny.tokenizer(), **more) for more in ({}, {"linear": "onednn"}))
    assert reordered(other.model) and not reordered(plain.model)
    assert plain.model_identity["arguments"] == {}
    assert other.model_identity["arguments"] == {"linear": "onednn"}
    assert other.get_model_info()["fairkv"]["identity"]["arguments"] == {"linear": "onednn"}
    assert not reordered(attached := tiny.model()) and attach_chosen(attached)[2] == []
