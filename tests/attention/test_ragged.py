"""The compiled decoding kernel against plain loops, and through the engine against the slow reference."""

from __future__ import annotations

import itertools
import math

import engine_runs
import press_table
import pytest
import tiny
import torch
from attention_inputs import SCALING, close, drawn, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairkv_eval.attention import ragged as ragged_module
from fairkv_eval.attention.backend import Options, VisibleRows
from fairkv_eval.attention.ragged import Ragged
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.errors import UsageError

try:
    RAGGED = Ragged()
except UsageError as error:
    pytest.skip(str(error), allow_module_level=True)

# float32: rounding. bfloat16: half a unit in the last of 8 bits, and what the sums before it lack.
ATOL = {torch.float32: 2e-6, torch.bfloat16: 2**-8}
OPTIONS = st.builds(
    Options, st.just(SCALING), st.sampled_from([None, 1, 2, 31, 40, 500]), st.sampled_from([None, 2.0, 50.0]), st.none()
)


def by_loops(q: Tensor, visible: VisibleRows, options: Options) -> Tensor:
    """softmax(query · keys)·values in double precision, one query after another."""
    _, keys, values, step = visible
    out = torch.empty(*q.shape[:3], values.shape[3], dtype=torch.float64)
    for row, head, query in itertools.product(*map(range, q.shape[:3])):
        length = int(step.lengths[row])
        seen = range(max(0, length - (options.window or length)), length)
        logits = [float(q[row, head, query].double() @ keys[row, head, i].double()) * options.scaling for i in seen]
        if options.softcap:
            logits = [options.softcap * math.tanh(logit / options.softcap) for logit in logits]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        parts = [w / sum(weights) * values[row, head, i].double() for w, i in zip(weights, seen, strict=True)]
        out[row, head, query] = torch.stack(parts).sum(0)
    return out


@given(
    st.lists(st.one_of(st.integers(1, 9), st.sampled_from([31, 32, 33, 64, 100])), min_size=1, max_size=4),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 4, 5, 9]),
    st.sampled_from([1, 8, 16, 20, 64, 80, 128, 256]),
    OPTIONS,
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_rows_attend_to_what_they_hold(lengths, heads, group, dim, options, dtype, seed) -> None:
    q, visible = (
        drawn(len(lengths), heads, group, dim, seed=seed, dtype=dtype),
        shown(lengths, heads, options.window, dim=dim, dtype=dtype),
    )
    for row, length in enumerate(lengths):  # even a hidden NaN would be seen
        visible.keys[row, :, length:], visible.values[row, :, length:] = math.nan, math.nan
    outputs = RAGGED.rows(q, visible, options)
    assert outputs.dtype == dtype
    torch.testing.assert_close(outputs.double(), by_loops(q, visible, options), atol=ATOL[dtype], rtol=ATOL[dtype])


@pytest.mark.parametrize("dtype", sorted(ATOL, key=str))
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_it_rounds_as_sdpa_does(dtype: torch.dtype, scale: float) -> None:
    """Also with logits of hundreds, of which nearly all weights vanish."""
    lengths = [700, 3, 129, 256]
    q, visible = drawn(4, 2, 3, 64, dtype=dtype) * scale, shown(lengths, 2, None, dim=64, dtype=dtype)
    largest = float((q.float() @ visible.keys.float().transpose(-1, -2)).abs().max()) * SCALING
    atol = 4 * ATOL[dtype] + largest * 2**-23  # a logit's own rounding, which the exponential turns into a weight's
    close([RAGGED.rows(q, visible, Options(SCALING))], [SDPA.rows(q, visible, Options(SCALING))], atol=atol)


@pytest.mark.parametrize("dtype", sorted(ATOL, key=str))
def test_a_row_is_the_same_bits_alone_and_on_any_number_of_threads(dtype: torch.dtype) -> None:
    lengths, options = [5, 90, 33, 200, 1, 64], Options(SCALING, window=70)
    q, visible = drawn(6, 3, 3, 64, dtype=dtype), shown(lengths, 3, 70, dim=64, dtype=dtype)
    together = RAGGED.rows(q, visible, options)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(RAGGED.rows(q, visible, options), together)
    finally:
        torch.set_num_threads(threads)
    for row, length in enumerate(lengths):
        alone = shown([length], 3, 70, dim=64, dtype=dtype)
        keys, values = (t[row : row + 1, :, :length].clone() for t in (visible.keys, visible.values))
        alone = alone._replace(keys=keys, values=values)
        assert torch.equal(RAGGED.rows(q[row : row + 1], alone, options), together[row : row + 1])


def test_keys_of_more_channels_than_values_and_of_any_stride() -> None:
    visible = shown([3, 40], 2, None, dim=24)
    keys = drawn(2, 50, 2, 16, seed=5).transpose(1, 2)  # packed by token
    visible = visible._replace(keys=keys)
    q = drawn(2, 3, 4, 16).transpose(1, 2)[:, :2]
    outputs = RAGGED.rows(q, visible, Options(SCALING))
    torch.testing.assert_close(outputs.double(), by_loops(q, visible, Options(SCALING)), atol=2e-6, rtol=2e-6)


def test_a_nan_is_not_hidden() -> None:
    visible = shown([40, 40], 1, None, dim=64)
    visible.keys[1, 0, 17, 3] = math.nan
    outputs = RAGGED.rows(drawn(2, 1, 2, 64), visible, Options(SCALING))
    assert outputs[0].isfinite().all() and outputs[1].isnan().all()


@pytest.mark.parametrize(
    "dim, kind, reason",
    [
        (8, {"dtype": torch.float64}, "it takes float32 or bfloat16, and queries, keys and values are in float64"),
        (264, {}, "its heads have at most 256 channels, and here keys have 264, values 264"),
    ],
)
def test_what_it_cannot_do_goes_through_sdpa_and_is_noted(dim: int, kind: dict, reason: str) -> None:
    ragged = Ragged()
    q, rows = drawn(1, 2, 1, dim, **kind), shown([3], 2, None, dim=dim, **kind)
    close([ragged.rows(q, rows, Options(SCALING))], [SDPA.rows(q, rows, Options(SCALING))])
    assert ragged.notes == {f"attention through sdpa instead of ragged: {reason}"} and not ragged.calls


def test_channels_that_lie_apart_and_other_devices_are_obstacles() -> None:
    visible = shown([3], 2, None, dim=8)
    apart = visible.keys.transpose(-1, -2).contiguous().transpose(-1, -2)
    assert (
        ragged_module.obstacle(visible.keys, apart, visible.values)
        == "the channels of a key or value do not lie side by side"
    )
    away = visible.keys.to("meta")
    assert ragged_module.obstacle(away, visible.keys, visible.values) == "it runs on a CPU, and these are on cpu, meta"


def jobs(name: str) -> list[Job]:
    """Generations and scores of prompts that begin alike or not."""
    visible = [engine_runs.prompt(seed, n=14 + seed, context=10 + seed % 3, cut=5) for seed in range(4)]
    wants = [Generation(5), LogLikelihood((7, 8, 9)), Generation(4), Generation(6)]
    return [Job(prompt, press_table.policy(name), want, "tiny") for prompt, want in zip(visible, wants, strict=True)]


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2"])
@pytest.mark.parametrize("press", ["tova", "adakv small"])
def test_the_engine_finds_what_the_slow_reference_says(kind: str, press: str) -> None:
    """Also where heads differ in length (adakv), windows slide (mistral, gemma2) and logits are bounded (gemma2)."""
    ragged = Ragged()
    model = tiny.model(kind, **engine_runs.SIZES.get(kind, {}))
    engine_runs.check((model, attach_checked(model, ragged)), jobs(press), backend=ragged, rows=3)
    assert ragged.calls and not ragged.notes


def test_a_bfloat16_is_the_nearest_and_of_two_the_even_one() -> None:
    """Means of two values that lie between two neighbors; of three, nearer to one."""
    visible = shown([2, 2, 3], 1, None, dim=8, dtype=torch.bfloat16)
    visible.keys[:] = 0
    unit = 2**-7
    for row, values in enumerate([(1, 1 + unit), (1 + unit, 1 + 2 * unit), (1, 1, 1 + unit)]):
        visible.values[row, 0, : len(values)] = torch.tensor(values)[:, None]
    outputs = RAGGED.rows(drawn(3, 1, 1, 8, dtype=torch.bfloat16), visible, Options(SCALING))
    assert outputs[:, 0, 0].unique(dim=1).flatten().tolist() == [1, 1 + 2 * unit, 1]
