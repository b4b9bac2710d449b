"""The real flash kernels against SDPA and against the slow reference, on a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import engine_runs
import press_table
import pytest
import tiny
import torch
from attention_inputs import SCALING, close, drawn, sequences, shown
from pairwise import pairwise
from torch import Tensor

from fairkv_eval.attention.backend import Attending, Options, VisibleRows
from fairkv_eval.attention.flash import Flash
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine import attach
from fairkv_eval.engine.attach import attach_chosen
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.errors import UsageError
from fairkv_eval.model import FairKV

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

DIM = 64
OPTIONS = [
    Options(SCALING),
    Options(SCALING, window=1),
    Options(SCALING, window=33),
    Options(SCALING, softcap=3.0),
    Options(SCALING, window=33, softcap=3.0),
]
TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}  # a few roundings of values of about one

KERNELS = sorted(attach.KERNELS)


def of_each_kernel(*parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
    """`pairwise` for each kernel by itself, since few machines have both."""
    return [(kernel, *values) for kernel in KERNELS for values in pairwise(*parameters)]


@pytest.fixture(params=KERNELS)
def flash(request: pytest.FixtureRequest) -> Flash:
    try:
        kernel = attach.KERNELS[request.param]()
        reason = attach.obstacle(torch.device("cuda"), torch.float16)
    except UsageError as error:
        pytest.skip(str(error))
    if reason:
        pytest.skip(f"{request.param} {reason}")
    return Flash(kernel)


def check_packed(flash: Flash, own: list[Attending], options: Options, tolerance: float) -> None:
    """Against SDPA in float32, since SDPA too rounds."""
    expected = SDPA.packed([(q.float(), k.float(), v.float()) for q, k, v in own], options)
    close(flash.packed(own, options), [out.to(own[0][0].dtype) for out in expected], tolerance)


def check_rows(flash: Flash, q: Tensor, own: VisibleRows, options: Options, tolerance: float) -> None:
    exact = own._replace(keys=own.keys.float(), values=own.values.float())
    expected = SDPA.rows(q.float(), exact, options).to(q.dtype)
    close([flash.rows(q, own, options)], [expected], tolerance)


def runs(flash: Flash, options: Options) -> bool:
    return options.softcap is None or flash.name == "flash_attention_2"


SHAPES = [
    ([(130, 0), (1, 0), (257, 0)], [2, 2, 2]),  # contexts
    ([(5, 300), (129, 77), (1, 128), (40, 0)], [2, 2, 2, 2]),  # parts of a prefix tree, tails
    ([(1, 300), (1, 7)], [2, 2]),  # lone queries
    ([(9, 200)], [2]),  # one sequence, packed without a copy
    ([(6, 90), (6, 200), (30, 64)], [1, 1, 2]),  # heads of different lengths
]


@pytest.mark.parametrize(
    ("flash", "dtype", "options", "shape", "group"),
    of_each_kernel(list(TOLERANCE), OPTIONS, SHAPES, [1, 3]),
    indirect=["flash"],
)
def test_packed_sequences(flash: Flash, dtype, options: Options, shape, group: int) -> None:
    sizes, heads = shape
    own = sequences(sizes, heads, group, DIM, dtype=dtype, device="cuda")
    check_packed(flash, own, options, TOLERANCE[dtype])
    assert bool(flash.calls) == runs(flash, options)


LENGTHS = [[1], [200, 3, 129], [64] * 5, [1000, 999]]


@pytest.mark.parametrize(
    ("flash", "dtype", "options", "lengths", "heads", "group"),
    of_each_kernel(list(TOLERANCE), OPTIONS, LENGTHS, [1, 2], [1, 4, 3]),
    indirect=["flash"],
)
def test_rows(flash: Flash, dtype, options: Options, lengths: list[int], heads: int, group: int) -> None:
    q = drawn(len(lengths), heads, group, DIM, dtype=dtype, device="cuda")
    own = shown(lengths, heads, options.window, 128 - max(lengths) % 128, DIM, dtype=dtype, device="cuda")
    check_rows(flash, q, own, options, TOLERANCE[dtype])
    assert bool(flash.calls) == runs(flash, options)


@pytest.mark.parametrize("dim", [8, 96, 256])
def test_dims_of_heads(flash: Flash, dim: int) -> None:
    own = sequences([(20, 30), (1, 5)], [2, 2], 2, dim, dtype=torch.float16, device="cuda")
    check_packed(flash, own, Options(SCALING), TOLERANCE[torch.float16])
    q, rows = (
        drawn(2, 2, 2, dim, dtype=torch.float16, device="cuda"),
        shown([30, 4], 2, None, dim=dim, dtype=torch.float16, device="cuda"),
    )
    check_rows(flash, q, rows, Options(SCALING), TOLERANCE[torch.float16])
    assert flash.calls == 2


def test_many_sequences(flash: Flash) -> None:
    """More heads of rows than a CUDA grid holds."""
    rows, heads = 40_000, 2
    q = drawn(rows, heads, 1, 8, dtype=torch.float16, device="cuda")
    own = shown([1, 2] * (rows // 2), heads, None, dim=8, dtype=torch.float16, device="cuda")
    check_rows(flash, q, own, Options(SCALING), TOLERANCE[torch.float16])
    assert flash.calls == 2


def engines(kind: str, dtype: torch.dtype, flash: Flash) -> tuple[Engine, Engine]:
    """One on the device with the kernel, and one on the CPU in float32 with the same weights and SDPA."""
    sizes = engine_runs.SIZES.get(kind, {})
    half, exact = tiny.model(kind, dtype, **sizes).to("cuda"), tiny.model(kind, dtype, **sizes).float()
    return (
        Engine(half, attach_checked(half, flash), 3, ask=engine_runs.ask, backend=flash),
        Engine(exact, attach_checked(exact), 3, ask=engine_runs.ask),
    )


@pytest.mark.parametrize(
    ("flash", "dtype", "kind", "press"),
    of_each_kernel(list(TOLERANCE), ["llama", "mistral", "gemma2"], ["none", "streaming_llm"]),
    indirect=["flash"],
)
def test_scores_are_those_of_sdpa_in_float32(flash: Flash, dtype, kind: str, press: str) -> None:
    """Within three times what SDPA on the CPU loses to the dtype: up to 0.03 nats in float16 and 0.2 in bfloat16."""
    if kind == "gemma2" and not runs(flash, Options(SCALING, softcap=5.0)):
        pytest.skip("bounds the logits of every layer, which torch's kernel cannot")
    policy = press_table.policy(press, ratio=0.0 if press == "none" else 0.5)
    jobs = [
        Job(
            engine_runs.prompt(seed, n=60 + 7 * seed, context=50 + seed, cut=20),
            policy,
            LogLikelihood((7, 8, 9)),
            "tiny",
        )
        for seed in range(6)
    ]
    ours, exact = (dict(engine.run(jobs)) for engine in engines(kind, dtype, flash))
    assert flash.calls and not flash.notes
    for index in range(len(jobs)):
        expected = pytest.approx(exact[index].logprob, abs=0.1 if dtype == torch.float16 else 0.6)
        assert ours[index].logprob == expected and ours[index].telemetry["kept_tokens"] > 0


@pytest.mark.parametrize("seed", [2, 5])  # whose best logits are 0.1 standard deviations apart at every token
def test_tokens_are_those_of_sdpa_in_float32(flash: Flash, seed: int) -> None:
    policy = press_table.policy("none", ratio=0.0)
    job = Job(engine_runs.prompt(seed, n=60, context=50, cut=20), policy, Generation(8), "tiny")
    ((_, ours),), ((_, exact),) = (list(engine.run([job])) for engine in engines("llama", torch.float16, flash))
    assert ours.tokens == exact.tokens


@pytest.mark.parametrize("press", ["adakv small", "pyramidkv small", "kvzip", "h2o"])
def test_every_kind_of_budget_runs(flash: Flash, press: str) -> None:
    """Layers and heads of different lengths and replays; what is kept depends on rounding, how much does not."""
    jobs = [
        Job(engine_runs.prompt(seed, n=70, context=50 + seed, cut=20), press_table.policy(press), Generation(6), "tiny")
        for seed in range(5)
    ]
    ours, exact = (dict(engine.run(jobs)) for engine in engines("llama", torch.bfloat16, flash))
    for index in range(len(jobs)):
        assert len(ours[index].tokens) == 6
        assert ours[index].telemetry["kept_tokens"] == exact[index].telemetry["kept_tokens"]


def test_the_choice_on_cuda(flash: Flash) -> None:
    model = tiny.model("llama", torch.bfloat16).to("cuda")
    windows, backend, notes = attach_chosen(model, flash.name)
    assert (len(windows), backend.name, notes) == (3, flash.name, [])


def test_auto_is_varlen_in_half_precision_and_sdpa_in_float32(flash: Flash) -> None:
    if flash.name != "varlen":
        pytest.skip("never chosen unless asked for")
    settings = {"tokenizer": tiny.tokenizer(), "device": "cuda"}
    half = FairKV(tiny.model("llama", torch.bfloat16).to("cuda"), **settings)
    info = half.get_model_info()["fairkv"]
    assert info["attn_implementation"] == "varlen", info["notes"]
    full = FairKV(tiny.model("llama").to("cuda"), **settings)
    assert full.get_model_info()["fairkv"]["attn_implementation"] == "sdpa"
    assert any("half precision" in note for note in full.run_log.notes)
