"""Attention over ragged keys against dense softmax loops, and what the seam lets through."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fairkv_eval.attention import sdpa, seam
from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.sdpa import causal, masked
from fairkv_eval.errors import UnsupportedModelError

SCALING = 0.4


def tensors(
    m: int, n: int, kv_heads: int = 2, group: int = 2, dim: int = 4, rng: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rng)
    q = torch.randn(kv_heads * group, m, dim, generator=generator) * 2
    k, v = (torch.randn(kv_heads, n, dim, generator=generator) * 2 for _ in "kv")
    return q, k, v


def weighted_mean(query: list[float], keys: list[list[float]], values: list[list[float]], softcap: float | None):
    """softmax(query·keys·scaling)·values of one query over the keys it sees."""
    logits = [SCALING * sum(a * b for a, b in zip(query, key, strict=True)) for key in keys]
    if softcap is not None:
        logits = [softcap * math.tanh(x / softcap) for x in logits]
    weights = [math.exp(x - max(logits)) for x in logits]
    return [
        sum(w * value[d] for w, value in zip(weights, values, strict=True)) / sum(weights)
        for d in range(len(values[0]))
    ]


def causal_by_loops(q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
    heads, m, n = q.shape[0], q.shape[1], k.shape[1]
    group = heads // k.shape[0]
    out = []
    for head in range(heads):
        keys, values = k[head // group].tolist(), v[head // group].tolist()
        rows = []
        for i in range(m):
            at = n - m + i
            seen = [j for j in range(at + 1) if options.window is None or j > at - options.window]
            rows.append(
                weighted_mean(q[head, i].tolist(), [keys[j] for j in seen], [values[j] for j in seen], options.softcap)
            )
        out.append(rows)
    return torch.tensor(out)


def check(q: Tensor, k: Tensor, v: Tensor, options: Options) -> None:
    torch.testing.assert_close(causal(q, k, v, options), causal_by_loops(q, k, v, options), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [None, 1, 3, 8, 9, 50])
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_causal_is_softmax(window: int | None, softcap: float | None) -> None:
    for m, n in ((1, 1), (1, 9), (9, 9), (4, 9), (8, 9), (2, 2)):
        check(*tensors(m, n), Options(SCALING, window, softcap))


@given(
    st.integers(1, 12).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from([None, 1, 4]),
    st.sampled_from([None, 2.0]),
    st.sampled_from([1, 20, 1 << 24]),
)
@settings(max_examples=60)
def test_any_shape_in_any_number_of_blocks(size, kv_heads, group, window, softcap, elements) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sdpa, "MASK_ELEMENTS", elements)
        check(*tensors(*size, kv_heads, group), Options(SCALING, window, softcap))


@pytest.mark.parametrize("elements, calls", [(1 << 24, 1), (30, 3), (1, 7)])
def test_large_masks_are_worked_off_in_blocks(elements: int, calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(7, 10)
    seen = []

    def spy(*args):
        seen.append(args[3].numel())
        return masked(*args)

    monkeypatch.setattr(sdpa, "MASK_ELEMENTS", elements)
    monkeypatch.setattr(sdpa, "masked", spy)
    check(q, k, v, Options(SCALING))
    assert len(seen) == calls and max(seen) <= max(elements, 10)


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("some_hidden", [True, False])
def test_masked_rows_as_a_decode_step_has_them(softcap: float | None, some_hidden: bool) -> None:
    """q [rows, kv_heads, group, dim]: the query heads of a group stand as queries of their KV head."""
    rows, kv_heads, group, n, dim = 3, 2, 3, 6, 4
    generator = torch.Generator().manual_seed(1)
    q = torch.randn(rows, kv_heads, group, dim, generator=generator)
    k, v = (torch.randn(rows, kv_heads, n, dim, generator=generator) for _ in "kv")
    visible = [[0, 1, 2, 3, 4, 5], [0, 1], [4]] if some_hidden else [list(range(n))] * rows
    mask = torch.zeros(rows, 1, 1, n, dtype=torch.bool)
    for row, entries in enumerate(visible):
        mask[row, :, :, entries] = True
    expected = [
        [
            [
                weighted_mean(query, k[r, h][visible[r]].tolist(), v[r, h][visible[r]].tolist(), softcap)
                for query in head
            ]
            for h, head in enumerate(row)
        ]
        for r, row in enumerate(q.tolist())
    ]
    found = masked(q, k, v, mask if some_hidden else None, Options(SCALING, softcap=softcap))
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("options", [Options(SCALING), Options(SCALING, window=3), Options(SCALING, softcap=2.0)])
@pytest.mark.parametrize("m", [1, 4, 9])
def test_half_precision_stays(options: Options, m: int) -> None:
    q, k, v = (t.bfloat16() for t in tensors(m, 9))
    found = causal(q, k, v, options)
    assert found.dtype == torch.bfloat16
    exact = causal_by_loops(q.float(), k.float(), v.float(), options)
    torch.testing.assert_close(found.float(), exact, atol=0.1, rtol=0.05)


class Recorder:
    """A phase that only notes what it is given."""

    def attend(self, q, k, v, options):
        self.options = options
        return q.transpose(1, 2)


class TestSeam:
    def call(self, phase: object, **kwargs: object):
        q = torch.zeros(1, 2, 3, 16)
        return seam.attention(nn.Identity(), q, q, q, kv=phase, **kwargs)

    def test_hands_over_scaling_window_and_softcap(self) -> None:
        phase = Recorder()
        out, weights = self.call(phase, scaling=0.3, sliding_window=7, softcap=30.0, dropout=0.0, position_ids=None)
        assert out.shape == (1, 3, 2, 16) and weights is None
        assert phase.options[:3] == Options(0.3, 7, 30.0)[:3]

    def test_scaling_has_the_usual_default(self) -> None:
        phase = Recorder()
        self.call(phase)
        assert phase.options[:3] == Options(0.25)[:3]

    def test_an_unknown_argument_is_refused_by_name(self) -> None:
        with pytest.raises(UnsupportedModelError, match="Identity attends with alibi, s_aux"):
            self.call(Recorder(), s_aux=torch.ones(2), alibi=1, something_absent=None)

    def test_a_mask_of_the_models_own_is_refused(self) -> None:
        with pytest.raises(UnsupportedModelError, match="attention mask"):
            self.call(Recorder(), attention_mask=torch.ones(1))

    def test_without_a_phase_the_model_does_not_run(self) -> None:
        with pytest.raises(RuntimeError, match="kv=<phase>"):
            self.call(None)

    def test_a_model_without_the_seam_is_refused_by_name(self) -> None:
        def refuse(name: str) -> None:
            raise ValueError("no such thing")

        model = SimpleNamespace(set_attn_implementation=refuse, config=SimpleNamespace(model_type="strange"))
        with pytest.raises(UnsupportedModelError, match="'strange' models have no attention interface"):
            seam.attach(model)


@pytest.mark.parametrize(
    "device, dtype, is_masked, expected",
    [
        ("cpu", torch.float32, True, False),
        ("cuda", torch.float16, False, False),
        ("cuda", torch.bfloat16, True, True),
        ("cuda", torch.float32, False, True),
        ("cuda", torch.float32, True, True),
    ],
)
def test_where_the_fused_kernels_take_no_groups(
    device: str, dtype: torch.dtype, is_masked: bool, expected: bool
) -> None:
    assert sdpa.wants_every_head(torch.device(device), dtype, is_masked) == expected


@pytest.mark.parametrize("m, window", [(7, None), (3, None), (7, 2)])
def test_repeated_heads_attend_as_groups_do(m: int, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = tensors(m, 7, group=3)
    options, seen = Options(SCALING, window), []
    grouped = causal(q, k, v, options)
    real = sdpa.F.scaled_dot_product_attention
    spy = SimpleNamespace(
        scaled_dot_product_attention=lambda q, k, v, *args, **kwargs: (
            seen.append((len(q[0]), len(k[0]), kwargs["enable_gqa"])) or real(q, k, v, *args, **kwargs)
        )
    )
    monkeypatch.setattr(sdpa, "F", spy)
    monkeypatch.setattr(sdpa, "wants_every_head", lambda device, dtype, masked: True)
    torch.testing.assert_close(causal(q, k, v, options), grouped)
    assert seen and set(seen) == {(6, 6, False)}
