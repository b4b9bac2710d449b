"""Flash backends against SDPA: the packing on fake kernels that loop on the CPU, the kernels themselves on a GPU."""

from __future__ import annotations

import inspect
import itertools
import math

import engine_runs
import fake_flash
import press_table
import pytest
import tiny
import torch
from attention_inputs import DIM, SCALING, close, drawn, sequences, shown
from hypothesis import given, settings
from hypothesis import strategies as st

from fairkv_eval.attention import flash as flash_module
from fairkv_eval.attention import sdpa
from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.flash import Flash
from fairkv_eval.attention.kernels import TorchKernel, older_varlen_attn
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood

SIZES = st.tuples(st.integers(1, 6), st.integers(0, 7))
OPTIONS = st.builds(Options, st.just(SCALING), st.sampled_from([None, 1, 2, 5, 40]), st.sampled_from([None, 2.0]))


@given(
    st.lists(st.tuples(SIZES, st.sampled_from([1, 2])), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([1, 3]),
    OPTIONS,
    st.sampled_from(sorted(fake_flash.KERNELS)),
    st.sampled_from([(1 << 16, 1 << 18), (3, 1 << 18), (1 << 16, 9)]),
)
@settings(max_examples=150)
def test_packed_sequences_attend_as_alone(given_sizes, same_heads, group, options, name, most) -> None:
    """Keys before the queries, heads of one length or of several, windows, softcaps, one call or more."""
    sizes = [size for size, _ in given_sizes]
    heads = [2 if same_heads else kv for _, kv in given_sizes]
    flash = Flash(fake_flash.KERNELS[name]())
    drawn_sequences = sequences(sizes, heads, group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash_module, "MAX_SEQUENCES", most[0])
        patch.setattr(flash_module, "MAX_KEYS", most[1])
        found = flash.packed(iter(drawn_sequences), options)
    close(found, SDPA.packed(drawn_sequences, options))
    assert bool(flash.calls) == (options.softcap is None or name == "flash_attention_2") == (not flash.notes)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 3]),
    OPTIONS,
    st.sampled_from(sorted(fake_flash.KERNELS)),
    st.sampled_from([1 << 16, 4, 1]),
)
@settings(max_examples=150)
def test_rows_attend_to_what_they_hold(lengths, heads, group, options, name, most) -> None:
    flash = Flash(fake_flash.KERNELS[name]())
    q, held = drawn(len(lengths), heads, group, DIM), shown(lengths, heads, options.window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash_module, "MAX_SEQUENCES", most)
        found = flash.rows(q, held, options)
    close([found], [SDPA.rows(q, held, options)])
    calls = math.ceil(len(lengths) / max(1, most // heads))
    assert flash.calls == (calls if options.softcap is None or name == "flash_attention_2" else 0)


def test_all_sequences_of_a_layer_take_one_call() -> None:
    flash = Flash(fake_flash.torch_kernel())
    flash.packed(sequences([(2, 3), (1, 0), (4, 1)], [2, 1, 2], 2), Options(SCALING))
    assert flash.calls == 1
    flash.rows(drawn(3, 2, 2, DIM), shown([3, 1, 2], 2, None), Options(SCALING))
    assert flash.calls == 2


@pytest.mark.parametrize(
    "heads, tokens, expected",
    [(99, 99, [5]), (5, 99, [2, 2, 1]), (1, 99, [1] * 5), (99, 10, [3, 2]), (99, 9, [2, 2, 1]), (99, 1, [1] * 5)],
)
def test_a_call_is_no_larger_than_it_may_be(heads: int, tokens: int, expected: list[int], monkeypatch) -> None:
    """Except that one sequence is always taken. Here each has two heads and three or four tokens."""
    monkeypatch.setattr(flash_module, "MAX_SEQUENCES", heads)
    monkeypatch.setattr(flash_module, "MAX_KEYS", tokens)
    own = sequences([(1, 2), (2, 1), (3, 1), (3, 1), (1, 3)], [2] * 5, 1)
    assert [len(group) for group in flash_module.call_groups(iter(own))] == expected


@pytest.mark.parametrize("sizes, expected", [([(1, 4), (1, 2)], (-1, -1)), ([(2, 4), (1, 2)], (-1, 0))])
def test_lone_queries_are_not_asked_to_be_causal(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    """Only then do the kernels split long rows and let heads share what they read."""
    seen = []

    def spy(*args, window_size, **kwargs):
        seen.append(window_size)
        return fake_flash.varlen_attn(*args, window_size=window_size, **kwargs)

    Flash(fake_flash.TorchKernel(spy, fake_flash.FLOATS)).packed(sequences(sizes, [2, 2], 2), Options(SCALING))
    assert seen == [expected]


def test_rows_are_read_where_they_lie() -> None:
    seen = []

    def spy(q, keys, values, *args, **kwargs):
        seen.append((keys.data_ptr(), values.data_ptr()))
        return fake_flash.varlen_attn(q, keys, values, *args, **kwargs)

    own = shown([3, 5], 2, None)
    Flash(fake_flash.TorchKernel(spy, fake_flash.FLOATS)).rows(drawn(2, 2, 1, DIM), own, Options(SCALING))
    assert seen == [(own.keys.data_ptr(), own.values.data_ptr())]


@pytest.mark.parametrize("name", sorted(fake_flash.KERNELS))
@pytest.mark.parametrize(
    "dim, kind, reason",
    [
        (DIM, {"dtype": torch.float64}, "it needs half precision, and queries, keys and values are in float64"),
        (12, {}, "its heads have dims of 8, 16 … 256, and here keys have 12 and values 12"),
        (264, {}, "its heads have dims of 8, 16 … 256, and here keys have 264 and values 264"),
    ],
)
def test_what_a_kernel_cannot_do_goes_through_sdpa_and_is_noted(name, dim: int, kind: dict, reason: str) -> None:
    flash = Flash(fake_flash.KERNELS[name]())
    own = sequences([(2, 1)], [2], 1, dim, **kind)
    close(flash.packed(own, Options(SCALING)), SDPA.packed(own, Options(SCALING)))
    q, rows = drawn(1, 2, 1, dim, **kind), shown([3], 2, None, dim=dim, **kind)
    close([flash.rows(q, rows, Options(SCALING))], [SDPA.rows(q, rows, Options(SCALING))])
    assert flash.notes == {f"attention through sdpa instead of {name}: {reason}"} and not flash.calls


def test_the_fakes_have_the_signatures_of_the_real_ones() -> None:
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    real, fake = (inspect.signature(f).parameters for f in (varlen.varlen_attn, fake_flash.varlen_attn))
    assert [(p.name, p.kind) for p in real.values()] == [(p.name, p.kind) for p in fake.values()]


@pytest.mark.parametrize("name", ["varlen_attn", "older_varlen_attn"])
def test_torch_takes_the_calls(name: str) -> None:
    """On tensors without data, which go through the real operator's schema and give the right shapes."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    flash = Flash(TorchKernel({"varlen_attn": varlen.varlen_attn, "older_varlen_attn": older_varlen_attn}[name]))
    half = {"dtype": torch.float16, "device": "meta"}
    for options in (Options(SCALING), Options(SCALING, window=2)):
        own = sequences([(2, 3), (1, 0)], [2, 2], 2, **half)
        assert [out.shape for out in flash.packed(own, options)] == [q.shape for q, *_ in own]
        q = torch.empty(2, 2, 3, DIM, **half)
        assert flash.rows(q, shown([3, 1], 2, options.window, **half), options).shape == q.shape
    assert flash.calls == 4


def jobs(name: str, **arguments) -> list[Job]:
    """Generations and scores of prompts that begin alike or not."""
    prompts = [engine_runs.prompt(seed, n=14 + seed, context=10 + seed % 3, cut=5) for seed in range(4)]
    wants = [Generation(5), LogLikelihood((7, 8, 9)), Generation(4), LogLikelihood((1,))]
    return [
        Job(prompt, press_table.policy(name, **arguments), want, "tiny")
        for prompt, want in zip(prompts, wants, strict=True)
    ]


@pytest.mark.parametrize("kernel", sorted(fake_flash.KERNELS))
@pytest.mark.parametrize(
    "kind, press",
    [*itertools.product(("llama", "mistral", "gemma2"), ("tova", "adakv small")), ("llama", "kvzip")],
)
def test_the_engine_finds_what_the_slow_reference_says(kernel: str, kind: str, press: str, monkeypatch) -> None:
    """Also where heads differ in length (adakv), contexts are replayed (kvzip), windows slide (mistral, gemma2) and
    logits are bounded (gemma2); nothing that the kernel can do goes past it."""
    flash = Flash(fake_flash.KERNELS[kernel]())
    unbounded = kind == "gemma2" and kernel == "varlen"
    model = tiny.model(kind, **engine_runs.SIZES.get(kind, {}))
    if unbounded:
        attached = model, attach_checked(model, flash)
    else:
        with monkeypatch.context() as patch:
            for name in ("packed", "rows"):
                patch.delattr(sdpa.Sdpa, name)
            attached = model, attach_checked(model, flash)
            engine_runs.run(attached, jobs(press), backend=flash)
    engine_runs.check(attached, jobs(press), backend=flash, rows=3)
    assert (bool(flash.calls), bool(flash.notes)) == (not unbounded, unbounded)
