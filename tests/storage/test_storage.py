"""Storage against loops in numpy: errors, bytes, and which pairs are packed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import quantised_by_loops
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.errors import UsageError
from fairkv_eval.storage.bits import BITS, KIVI, PER_TOKEN, ROTATED, SCHEMES, joined_bits
from fairkv_eval.storage.hadamard import rotation
from fairkv_eval.storage.storage import PLAIN, Storage

PACKED = [bits for bits in BITS if bits != 16]
HEADS, DIM = 2, 32


def entries(n: int, dim: int = DIM, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Entries ``[HEADS, n, dim]`` with an outlier channel, as keys have."""
    drawn = torch.randn(HEADS, n, dim, generator=torch.Generator().manual_seed(seed))
    drawn[..., 1] += 9
    return drawn.to(dtype)


@pytest.mark.parametrize("scheme, bits", [*itertools.product((PER_TOKEN, KIVI), PACKED)])
def test_what_comes_back_is_what_loops_say(scheme: str, bits: int) -> None:
    storage = Storage.of(bits, scheme, group=16)
    original = entries(48)
    for codec, by_channel in zip(storage.codecs(DIM, DIM, torch.float32), (scheme == KIVI, False), strict=True):
        out = torch.empty_like(original)
        codec.decode(codec.encode(original), out)
        tokens, channels = (16, 1) if by_channel else (1, 16)
        expected = quantised_by_loops.blocks(original.numpy(), bits, tokens, channels)
        assert np.abs(out.numpy() - expected).max() <= 1e-6


@pytest.mark.parametrize("bits, most", [(8, 0.5), (4, 0.5), (3, 0.5), (2, 0.5)])
def test_an_entry_is_off_by_half_a_step_at_most(bits: int, most: float) -> None:
    original = entries(64)
    codec, _ = Storage.of(bits).codecs(DIM, DIM, torch.float32)
    out = torch.empty_like(original)
    codec.decode(codec.encode(original), out)
    step = (original.amax(-1, keepdim=True) - original.amin(-1, keepdim=True)) / (2**bits - 1)
    assert ((out - original).abs() <= most * step + 0.01 * step + 5e-3).all()  # scale and zero are rounded to float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bits", [*PACKED, "k4v2", "k16v4", "k8v16"])
def test_bytes_are_those_of_the_tensors(bits: int | str, scheme: str, dtype: torch.dtype) -> None:
    storage = Storage.of(bits, scheme, group=16, residual=5)
    key_dim, value_dim = 32, 16
    for n in (0, 1, 5, 6, 21, 22, 64, 100):
        packed = storage.n_packed(n)
        held = [
            codec.encode(entries(packed, codec.dim, dtype=dtype)) for codec in storage.codecs(key_dim, value_dim, dtype)
        ]
        expected = sum(part.nbytes for parts in held for part in parts)
        plain = (n - packed) * (key_dim + value_dim) * dtype.itemsize * HEADS
        assert HEADS * storage.nbytes(n, key_dim, value_dim, dtype) == expected + plain


def test_bytes_of_well_known_storages() -> None:
    full = PLAIN.nbytes(8192, 64, 64, torch.bfloat16)
    assert full == 8192 * 2 * 64 * 2
    assert Storage.of(4).nbytes(8192, 64, 64, torch.bfloat16) == 8192 * 2 * (32 + 4)  # 0.281 of full
    assert Storage.of(8).nbytes(8192, 64, 64, torch.bfloat16) == 8192 * 2 * (64 + 4)
    assert Storage.of(3).nbytes(8192, 64, 64, torch.bfloat16) == 8192 * 2 * (24 + 4)
    assert Storage.of(2, KIVI, residual=0).nbytes(8192, 64, 64, torch.bfloat16) == 8192 * 2 * (16 + 8)


@given(st.integers(0, 400), st.sampled_from(SCHEMES), st.one_of(st.none(), st.integers(0, 200)), st.integers(1, 64))
def test_the_newest_pairs_stay_plain_until_a_group_is_full(
    n: int, scheme: str, residual: int | None, group: int
) -> None:
    storage = Storage.of(4, scheme, group, residual)
    window, unit = storage.window, group if scheme == KIVI else 1
    assert window == (residual if residual is not None else 128 if scheme == KIVI else 0)
    # A pair is packed when it leaves the window, or with the last pair of its group that does.
    packed = 0
    for length in range(n + 1):
        while length - packed >= window + unit:
            packed += unit
    assert storage.n_packed(n) == packed and PLAIN.n_packed(n) == 0


@pytest.mark.parametrize("dim, group", [(64, 64), (128, 64), (96, 48), (80, 40), (16, 16), (20, 20)])
def test_a_default_group_divides_the_head(dim: int, group: int) -> None:
    assert Storage.of(4).codecs(dim, dim, torch.float32)[0].channels == group


@pytest.mark.parametrize("dim", [8, 24, 64, 96, 128])
def test_a_rotation_keeps_lengths_and_products(dim: int) -> None:
    matrix = rotation(dim, torch.float32, torch.device("cpu"))
    assert torch.allclose(matrix @ matrix.T, torch.eye(dim), atol=1e-6)
    storage, original = Storage.of(4, ROTATED), entries(5, dim)
    assert torch.allclose(storage.turned_back(storage.turned(original)), original, atol=1e-5)
    products = storage.turned(original) @ storage.turned(original).mT
    assert torch.allclose(products, original @ original.mT, atol=1e-3)
    assert storage.turned(original).abs().max() < 0.7 * original.abs().max()  # the outlier is spread


def test_plain_storage_turns_nothing() -> None:
    given = entries(3)
    for storage in (PLAIN, Storage.of(4), Storage.of(16, ROTATED)):
        assert storage.turned(given) is given is storage.turned_back(given)


def test_values_beyond_float16_are_clamped_to_it() -> None:
    original = torch.full((1, 1, 16), 1e6)
    original[..., 0] = -1e6
    codec, _ = Storage.of(8).codecs(16, 16, torch.float32)
    out = torch.empty_like(original)
    codec.decode(codec.encode(original), out)
    assert out.isfinite().all()


def test_equal_values_of_a_block_come_back() -> None:
    original = torch.full((1, 3, 16), 0.5)
    codec, _ = Storage.of(2).codecs(16, 16, torch.float32)
    out = torch.empty_like(original)
    codec.decode(codec.encode(original), out)
    assert torch.equal(out, original)


@pytest.mark.parametrize(
    "storage, message",
    [
        (
            Storage.of(4, group=64),
            "kv_group=64 does not divide the keys .* 32 channels .* nearest group that does is 32",
        ),
        (
            Storage.of(4, group=24),
            "kv_group=24 does not divide the keys .* 32 channels .* nearest group that does is 16",
        ),
        (Storage.of("k16v4", group=64), "kv_group=64 does not divide the values"),
        (Storage.of(4, KIVI, group=64), "kv_group=64 does not divide the values"),
    ],
)
def test_a_group_that_does_not_fit_the_head_is_refused(storage: Storage, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        storage.codecs(32, 32, torch.float32)


def test_a_rotation_needs_heads_that_blocks_divide() -> None:
    with pytest.raises(UsageError, match=r"kv_scheme=rotated needs .* a multiple of 8; the values .* 20"):
        Storage.of(4, ROTATED).codecs(32, 20, torch.float32)


@pytest.mark.parametrize("typed, bits", [(4, 4), ("4", 4), ("k4v4", 4), ("k4v2", "k4v2"), ("k16v16", 16)])
def test_bits_have_one_name(typed: object, bits: object) -> None:
    assert joined_bits(typed) == bits


@pytest.mark.parametrize("typed", [5, 0, "k4v5", "k4", "int4", True, 4.0, None, [4], {}])
def test_bits_that_do_not_exist_are_refused(typed: object) -> None:
    with pytest.raises(UsageError, match=r"unknown kv_bits .* Allowed: 16, 8, 4, 3, 2, or two of them as k4v2"):
        joined_bits(typed)
