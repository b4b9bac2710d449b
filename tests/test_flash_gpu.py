"""The real flash kernels against SDPA and against the slow reference, on a CUDA device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import reference
import running
import tiny
import torch
from test_backends import SCALING, close, drawn, sequences, shown

from fairkv_eval import backend_choice
from fairkv_eval.attention import Options
from fairkv_eval.backend_choice import attach_chosen
from fairkv_eval.backends import SDPA, Flash
from fairkv_eval.check import attach_checked
from fairkv_eval.engine import Engine
from fairkv_eval.errors import UsageError
from fairkv_eval.jobs import Generate, Job, Score
from fairkv_eval.model import FairKV

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DIM = 64
OPTIONS = [Options(), Options(window=1), Options(window=33), Options(softcap=3.0), Options(window=33, softcap=3.0)]
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}  # a few roundings of values of about one


@pytest.fixture(params=sorted(backend_choice._KERNELS))
def flash(request: pytest.FixtureRequest) -> Flash:
    try:
        kernel = backend_choice._KERNELS[request.param]()
        reason = backend_choice._obstacle(torch.device("cuda"), torch.float16)
    except UsageError as error:
        pytest.skip(str(error))
    if reason:
        pytest.skip(f"{request.param} {reason}")
    return Flash(kernel)


def runs(flash: Flash, options: Options) -> bool:
    return options.softcap is None or flash.name == "flash_attention_2"


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "sizes, heads",
    [
        ([(130, 0), (1, 0), (257, 0)], [2, 2, 2]),  # contexts
        ([(5, 300), (129, 77), (1, 128), (40, 0)], [2, 2, 2, 2]),  # parts of a prefix tree, tails
        ([(1, 300), (1, 7)], [2, 2]),  # lone queries
        ([(9, 200)], [2]),  # one sequence, packed without a copy
        ([(6, 90), (6, 200), (30, 64)], [1, 1, 2]),  # heads of different lengths
    ],
)
@pytest.mark.parametrize("group", [1, 3])
def test_packed_sequences(flash: Flash, dtype, options: Options, sizes, heads, group: int) -> None:
    own = sequences(sizes, heads, group, DIM, dtype=dtype, device="cuda")
    close(flash.packed(own, SCALING, options), SDPA.packed(own, SCALING, options), TOLERANCE[dtype])
    assert bool(flash.calls) == runs(flash, options)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("lengths", [[1], [200, 3, 129], [64] * 5, [1000, 999]])
@pytest.mark.parametrize("heads, group", [(1, 1), (2, 1), (1, 4), (2, 3)])
def test_rows(flash: Flash, dtype, options: Options, lengths: list[int], heads: int, group: int) -> None:
    q = drawn(len(lengths), heads, group, DIM, dtype=dtype, device="cuda")
    own = shown(lengths, heads, options.window, 128 - max(lengths) % 128, DIM, dtype=dtype, device="cuda")
    found, expected = flash.rows(q, own, SCALING, options), SDPA.rows(q, own, SCALING, options)
    close([found], [expected], TOLERANCE[dtype])
    assert bool(flash.calls) == runs(flash, options)


@pytest.mark.parametrize("dim", [8, 40, 96, 128, 256])
def test_dims_of_heads(flash: Flash, dim: int) -> None:
    own = sequences([(20, 30), (1, 5)], [2, 2], 2, dim, dtype=torch.float16, device="cuda")
    close(flash.packed(own, SCALING, Options()), SDPA.packed(own, SCALING, Options()), 4e-3)
    q, rows = (
        drawn(2, 2, 2, dim, dtype=torch.float16, device="cuda"),
        shown([30, 4], 2, None, dim=dim, dtype=torch.float16, device="cuda"),
    )
    close([flash.rows(q, rows, SCALING, Options())], [SDPA.rows(q, rows, SCALING, Options())], 4e-3)
    assert flash.calls == 2


def test_many_sequences(flash: Flash) -> None:
    """More heads of rows than a CUDA grid holds."""
    rows, heads = 40_000, 2
    q = drawn(rows, heads, 1, 8, dtype=torch.float16, device="cuda")
    own = shown([1, 2] * (rows // 2), heads, None, dim=8, dtype=torch.float16, device="cuda")
    close([flash.rows(q, own, SCALING, Options())], [SDPA.rows(q, own, SCALING, Options())], 4e-3)
    assert flash.calls == 2


def jobs(press: str) -> list[Job]:
    prompts = [running.prompt(seed, n=60 + 7 * seed, context=50 + seed, cut=20) for seed in range(4)]
    wants = [Generate(12), Score((7, 8, 9)), Generate(7), Score((1,))]
    return [
        Job(prompt, running.policy(press), want, "tiny") for prompt, want in zip(prompts, wants, strict=True)
    ]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("press", ["tova", "adakv"])
def test_the_engine_as_with_sdpa(flash: Flash, dtype, kind: str, press: str) -> None:
    """Scores within rounding; tokens are those of SDPA up to a first difference that rounding explains: the slow
    reference on the CPU in float32 gives both tokens about the same logit."""
    model = tiny.model(kind, dtype, **running.SIZES.get(kind, {})).to("cuda")
    if not runs(flash, Options(softcap=1.0 if kind == "gemma2" else None)):
        pytest.skip("bounds the logits of every layer, which torch's kernel cannot")
    own = model.config._attn_implementation
    plain = dict(Engine(model, attach_checked(model), 3, ask=running.ask).run(jobs(press)))
    model.set_attn_implementation(own)
    windows = attach_checked(model, flash)
    found = dict(Engine(model, windows, 3, ask=running.ask, backend=flash).run(jobs(press)))
    assert flash.calls and not flash.notes
    for index, job in enumerate(jobs(press)):
        a, b = found[index], plain[index]
        assert a.telemetry == b.telemetry
        if isinstance(job.want, Score):
            assert a.logprob == pytest.approx(b.logprob, abs=0.2 if dtype == torch.bfloat16 else 0.05)
        else:
            assert len(a.tokens) == len(b.tokens) == job.want.max_tokens


def test_greedy_tokens_of_the_reference_in_float16(flash: Flash) -> None:
    """On a model whose answers are never close, every backend gives the tokens of the dense reference in float32."""
    model = tiny.model("llama", torch.float16).to("cuda")
    windows = attach_checked(model, flash)
    job = Job(running.prompt(3, n=60, context=50, cut=20), running.policy("none", ratio=0.0), Generate(8), "tiny")
    ((_, result),) = Engine(model, windows, backend=flash).run([job])
    exact = tiny.model("llama").to(torch.float16).float()
    attach_checked(exact)
    tokens = list(result.tokens)
    assert tokens == reference.answer(exact, replace(job), tokens, running.ask)


def test_the_choice_on_cuda(flash: Flash) -> None:
    model = tiny.model("llama", torch.bfloat16).to("cuda")
    windows, backend, notes = attach_chosen(model, flash.name)
    assert (len(windows), backend.name, notes) == (3, flash.name, [])


def test_auto_is_varlen_in_half_precision_and_sdpa_in_float32(tmp_path) -> None:
    settings = {"tokenizer": tiny.tokenizer(), "device": "cuda"}
    half = FairKV(tiny.model("llama", torch.bfloat16).to("cuda"), **settings)
    info = half.get_model_info()["fairkv"]
    assert info["attn_implementation"] == "varlen", info["notes"]
    full = FairKV(tiny.model("llama").to("cuda"), **settings)
    assert full.get_model_info()["fairkv"]["attn_implementation"] == "sdpa"
    assert any("half precision" in note for note in full._notes)
