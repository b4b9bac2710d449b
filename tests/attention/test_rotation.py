"""Rotations are measured on tiny random models, and held against what the models do elsewhere."""

from __future__ import annotations

from math import cos, sin
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fairkv_eval.attention import rotation as rotation_module
from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.rotation import Rotation, find_rotations
from fairkv_eval.attention.sdpa import causal
from fairkv_eval.attention.seam import attach

# Rounding of keys that a few layers of large random weights have passed on, in units of the largest key.
TOLERANCE = {torch.float32: 2e-3, torch.float16: 0.02, torch.bfloat16: 0.1}


def scaled(rope_type: str, **parameters: Any) -> dict:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}}


LONG = {
    "short_factor": [1 + i / 10 for i in range(8)],
    "long_factor": [2.0 + i for i in range(8)],
    "original_max_position_embeddings": 1024,
}
MLA = {
    "num_key_value_heads": 4,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
    "kv_lora_rank": 16,
    "q_lora_rank": None,
    "first_k_dense_replace": 3,
}
HALF, INTERLEAVED = ("half", 0, 16), ("interleaved", 0, 16)
NOPE = ("none", 0, 0)

# id: kind, sizes, and layout, first and number of rotated channels: of every layer, or layer by layer.
KINDS: dict[str, tuple[str, dict, Any]] = {
    "llama": ("llama", {}, HALF),
    "linear": ("llama", scaled("linear", factor=4.0), HALF),
    "dynamic": ("llama", scaled("dynamic", factor=4.0), HALF),
    "yarn": ("llama", scaled("yarn", factor=4.0, original_max_position_embeddings=256), HALF),
    "llama3": (
        "llama",
        scaled("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=256),
        HALF,
    ),
    "longrope": (
        "phi3",
        scaled("longrope", **LONG) | {"max_position_embeddings": 4096, "original_max_position_embeddings": 1024},
        HALF,
    ),
    "longrope of llama": ("llama", scaled("longrope", **LONG) | {"max_position_embeddings": 4096}, HALF),
    "qwen2": ("qwen2", {}, HALF),
    "qwen3": ("qwen3", {}, HALF),
    "gemma2": ("gemma2", {}, HALF),
    "gemma3": ("gemma3_text", {"layer_types": ["sliding_attention"] * 2 + ["full_attention"]}, HALF),
    "phi": ("phi", {}, ("half", 0, 8)),
    "gpt_neox": ("gpt_neox", {}, ("half", 0, 4)),
    "glm": ("glm", {}, ("interleaved", 0, 8)),
    "glm4": ("glm4", {}, ("interleaved", 0, 8)),
    "cohere": ("cohere", {}, INTERLEAVED),
    "cohere2": ("cohere2", {"num_hidden_layers": 4}, [INTERLEAVED] * 3 + [NOPE]),
    "smollm3": ("smollm3", {"num_hidden_layers": 4}, [HALF] * 3 + [NOPE]),
    "olmo2": ("olmo2", {}, HALF),
    "granite": ("granite", {}, HALF),
    "starcoder2": ("starcoder2", {}, HALF),
    "mixtral": ("mixtral", {}, HALF),
    "qwen3_moe": ("qwen3_moe", {}, HALF),
    "ernie4_5": ("ernie4_5", {}, INTERLEAVED),
    "nanochat": ("nanochat", {}, HALF),
    "deepseek_v2": ("deepseek_v2", MLA, ("interleaved", 8, 8)),
    "deepseek_v3": ("deepseek_v3", MLA, ("half", 8, 8)),
}
SHIFTS = (0, 5, 113, 700)  # but for the first, none of the positions that follow is probed by `find_rotations`


class Shifted:
    """A phase that runs ``n`` tokens several times over and remembers the keys of each run ``[kv_heads, n, dim]``."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.keys: list[tuple[Tensor, ...]] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        runs = [x[0].split(self.n, 1) for x in (q, k, v)]
        self.keys.append(runs[1])
        out = torch.cat([causal(*run, options) for run in zip(*runs, strict=True)], 1)
        return out.transpose(0, 1)[None].contiguous()


def shifted_keys(model: nn.Module, shifts: tuple[int, ...] = SHIFTS, n: int = 4) -> list[tuple[Tensor, ...]]:
    """Of each layer, the keys of one sequence begun at each shift, attention and all."""
    phase = Shifted(n)
    ids = torch.arange(60, 60 + n).repeat(len(shifts))[None]
    places = torch.cat([torch.arange(n) + shift for shift in shifts])[None]
    with torch.inference_mode():
        model(input_ids=ids, position_ids=places, use_cache=False, kv=phase)
    return phase.keys


def attached(kind: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> Any:
    model = tiny.model(kind, dtype, **sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases that start as ones and zeros show nothing
                parameter.add_(torch.randn_like(parameter) / 4)
    attach(model)
    return model


def check_shifts(model: Any, rotations: Any) -> None:
    """Turning the keys of a sequence begun at 0 gives those of the same sequence begun elsewhere."""
    tolerance = TOLERANCE[model.dtype]
    for rotation, (base, *others) in zip(rotations, shifted_keys(model), strict=True):
        for shift, keys in zip(SHIFTS[1:], others, strict=True):
            turned = rotation.rotate(base, torch.tensor(shift))
            assert turned.dtype == keys.dtype
            assert float((turned - keys).abs().max()) <= tolerance * float(keys.abs().max())
            back = rotation.rotate(keys, torch.full((keys.shape[1],), -shift))
            assert float((back - base).abs().max()) <= tolerance * float(base.abs().max())


def shape(rotation: Rotation) -> tuple[str, int, int]:
    return rotation.layout, rotation.offset, 2 * len(rotation.inv_freq)


@pytest.mark.parametrize("name", KINDS)
def test_rotations_turn_keys_as_the_model_does(name: str) -> None:
    kind, sizes, expected = KINDS[name]
    model = attached(kind, **sizes)
    rotations = find_rotations(model)
    layers = model.config.num_hidden_layers
    assert [shape(r) for r in rotations] == (expected if isinstance(expected, list) else [expected] * layers)
    check_shifts(model, rotations)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "yarn", "longrope", "glm", "smollm3"])
def test_rotations_of_half_precision_models(name: str, dtype: torch.dtype) -> None:
    kind, sizes, expected = KINDS[name]
    model = attached(kind, dtype, **sizes)
    rotations = find_rotations(model)
    assert [shape(r) for r in rotations] == (expected if isinstance(expected, list) else [expected] * len(rotations))
    check_shifts(model, rotations)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_learned_positions_are_no_rotation(kind: str) -> None:
    model = attached(kind)
    assert list(find_rotations(model)) == [None] * model.config.num_hidden_layers


def test_keys_reshaped_after_their_rotation_are_no_rotation() -> None:
    """HunYuan norms its keys after RoPE, with a weight for each channel."""
    assert list(find_rotations(attached("hunyuan_v1_dense"))) == [None] * 3


def test_angles_are_the_models_own_to_the_last_bit() -> None:
    """In double precision they would differ by 2e-4 radians here."""
    model = attached("llama", max_position_embeddings=8192)
    rotations = find_rotations(model)
    for rotation, (base, far) in zip(rotations, shifted_keys(model, (0, 8001), 1), strict=True):
        torch.testing.assert_close(rotation.rotate(base, torch.tensor(8001)), far, atol=3e-6, rtol=0)
        torch.testing.assert_close(rotation.rotate(far, torch.tensor(-8001)), base, atol=3e-6, rtol=0)


def test_layers_of_one_model_may_turn_at_different_speeds() -> None:
    kind, sizes, _ = KINDS["gemma3"]
    sliding, also_sliding, full = (r.inv_freq for r in find_rotations(attached(kind, **sizes)))
    assert torch.equal(sliding, also_sliding)
    assert float(full[-1]) < float(sliding[-1]) / 10


def test_a_model_may_turn_the_other_way() -> None:
    assert all((r.inv_freq < 0).all() for r in find_rotations(attached("nanochat")))


def test_rotations_outlive_the_models_own_buffers() -> None:
    model = attached("llama")
    before = find_rotations(model)[0]
    kept = before.inv_freq.clone()
    for buffer in model.model.rotary_emb.buffers():
        buffer.mul_(2)
    assert torch.equal(before.inv_freq, kept)


class Impostor(nn.Module):
    """A rotary module that shows these frequencies and turns by its own."""

    def __init__(self, own: nn.Module, *shown: Tensor) -> None:
        super().__init__()
        self._own = [own]  # in a list, where no one looks for modules
        for i, inv_freq in enumerate(shown):
            self.register_buffer(f"inv_freq_{i}", inv_freq)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._own[0](*args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("channel", [0, 5])
def test_wrong_frequencies_are_rejected(dtype: torch.dtype, channel: int) -> None:
    model = attached("llama", dtype)
    rotary = model.model.rotary_emb
    wrong = rotary.inv_freq.float().clone()
    wrong[channel] *= 1.1
    model.model.rotary_emb = Impostor(rotary, wrong)
    assert list(find_rotations(model)) == [None] * 3
    model.model.rotary_emb = Impostor(rotary, wrong, rotary.inv_freq, wrong / 8)
    rotations = find_rotations(model)
    assert [shape(r) for r in rotations] == [HALF] * 3
    assert all(torch.equal(r.inv_freq, rotary.inv_freq.float()) for r in rotations)


def test_a_wrong_frequency_does_not_drown_in_larger_channels() -> None:
    model = attached("llama")
    rotary = model.model.rotary_emb
    wrong = rotary.inv_freq.clone()
    wrong[6] *= 1.1
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight.unflatten(0, (2, 16))[:, [6, 14]] *= 1e-4
    model.model.rotary_emb = Impostor(rotary, wrong)
    assert list(find_rotations(model)) == [None] * 3


def test_the_least_error_decides_among_frequencies_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation_module, "TOLERANCE", {torch.float32: 10.0})
    model = attached("glm")
    rotary = model.model.rotary_emb
    model.model.rotary_emb = Impostor(rotary, rotary.inv_freq * 1.1, rotary.inv_freq, rotary.inv_freq[:2])
    for rotation in find_rotations(model):
        assert shape(rotation) == ("interleaved", 0, 8)
        assert torch.equal(rotation.inv_freq, rotary.inv_freq)


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_probing_leaves_the_model_as_it_was(name: str) -> None:
    kind, sizes, _ = KINDS[name]
    model = attached(kind, **sizes)
    before = [x.clone() for x in model.model.rotary_emb.buffers()]
    find_rotations(model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.model.rotary_emb.buffers(), strict=True))


# Any rotation against a slow reference.

LAYOUTS = st.sampled_from(["half", "interleaved"])


@st.composite
def any_rotation(draw: st.DrawFn) -> Rotation:
    pairs = draw(st.integers(1, 4))
    offset, rest = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    inv_freq = torch.tensor(draw(st.lists(st.floats(-1, 1, width=32), min_size=pairs, max_size=pairs)))
    return Rotation(draw(LAYOUTS), inv_freq, offset + 2 * pairs + rest, offset)


def slow_rotate(rotation: Rotation, x: list[float], position: int) -> list[float]:
    """One vector, pair by pair, in Python's double precision."""
    out, r = list(x), len(rotation.inv_freq)
    for i, frequency in enumerate(rotation.inv_freq.tolist()):
        near, far = (i, i + r) if rotation.layout == "half" else (2 * i, 2 * i + 1)
        near, far = near + rotation.offset, far + rotation.offset
        c, s = cos(frequency * position), sin(frequency * position)
        out[near], out[far] = c * x[near] - s * x[far], s * x[near] + c * x[far]
    return out


POSITION = st.integers(-1000, 1000)


@given(any_rotation(), st.integers(1, 3), st.integers(1, 4), st.data())
def test_rotate_equals_the_slow_reference(rotation: Rotation, heads: int, n: int, data: st.DataObject) -> None:
    assert rotation.dim is not None
    x = torch.randn(heads, n, rotation.dim, generator=torch.Generator().manual_seed(1))
    by_head = data.draw(st.booleans())  # positions of each head, or the same for all
    shape = (heads, n) if by_head else (n,)
    positions = torch.tensor(data.draw(st.lists(POSITION, min_size=heads * n if by_head else n, max_size=heads * n)))
    positions = positions[: heads * n if by_head else n].reshape(shape)
    turned = rotation.rotate(x, positions)
    for h in range(heads):
        for i in range(n):
            position = int(positions[h, i] if by_head else positions[i])
            expected = torch.tensor(slow_rotate(rotation, x[h, i].tolist(), position))
            torch.testing.assert_close(turned[h, i], expected, atol=1e-3, rtol=0)


@given(any_rotation(), POSITION, POSITION)
def test_rotations_add_up(rotation: Rotation, a: int, b: int) -> None:
    x = torch.randn(2, 3, rotation.dim or 0, generator=torch.Generator().manual_seed(2))
    first, second = torch.tensor([a, a + 1, 0]), torch.tensor([b, 7, a])
    twice = rotation.rotate(rotation.rotate(x, first), second)
    torch.testing.assert_close(twice, rotation.rotate(x, first + second), atol=1e-3, rtol=0)
    back = rotation.rotate(rotation.rotate(x, first), -first)
    torch.testing.assert_close(back, x, atol=1e-5, rtol=0)


@given(any_rotation(), st.integers(-50, 1000), st.integers(1, 40))
def test_mean_is_the_mean_of_the_matrices(rotation: Rotation, start: int, count: int) -> None:
    assert rotation.dim is not None
    total = torch.zeros(rotation.dim, rotation.dim)
    for position in range(start, start + count):
        for j, unit in enumerate(torch.eye(rotation.dim)):
            total[:, j] += rotation.rotate(unit[None], torch.tensor([position]))[0]
    mean = rotation.mean(start, start + count)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, total / count, atol=1e-5, rtol=0)


def test_no_rotation_leaves_everything_in_place() -> None:
    nope = Rotation("none", torch.empty(0), 6)
    x = torch.randn(2, 3, 6)
    assert torch.equal(nope.rotate(x, torch.tensor([5, 6, 7])), x)
    assert torch.equal(nope.mean(3, 9), torch.eye(6))


def test_a_rotation_without_a_dim_turns_every_channel() -> None:
    inv_freq = torch.tensor([1.0, 0.1])
    torch.testing.assert_close(Rotation("half", inv_freq).mean(2, 5), Rotation("half", inv_freq, 4).mean(2, 5))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rotate_computes_wide_and_returns_the_dtype(dtype: torch.dtype) -> None:
    rotation = Rotation("half", torch.tensor([1.0, 0.01]))
    x, positions = torch.randn(2, 3, 4).to(dtype), torch.tensor([1, 999, -5])
    assert torch.equal(rotation.rotate(x, positions), rotation.rotate(x.float(), positions).to(dtype))


def test_a_mean_needs_a_position() -> None:
    with pytest.raises(ValueError, match=r"\[4, 4\)"):
        Rotation("half", torch.ones(1)).mean(4, 4)
