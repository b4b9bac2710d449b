"""Codes packed into bytes, against codes written bit by bit into text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.storage.packing import PLANES, pack, packed_width, unpack


def planes_as_text(codes: list[int], bits: int) -> list[int]:
    """The bytes of one row of codes, from their bits as characters."""
    row, low = [], 0
    for width in PLANES[bits]:
        n_bytes = -(-len(codes) * width // 8)
        parts = [""] * n_bytes
        for at, code in enumerate(codes):
            parts[at % n_bytes] = f"{code:08b}"[::-1][low : low + width][::-1] + parts[at % n_bytes]
        row += [int(part or "0", 2) for part in parts]
        low += width
    return row


ROWS = st.sampled_from(sorted(PLANES)).flatmap(
    lambda bits: st.tuples(
        st.just(bits),
        st.integers(1, 70).flatmap(
            lambda dim: st.lists(
                st.lists(st.integers(0, 2**bits - 1), min_size=dim, max_size=dim), min_size=1, max_size=4
            )
        ),
    )
)


@given(ROWS)
def test_what_was_packed_comes_back(case: tuple[int, list[list[int]]]) -> None:
    bits, rows = case
    codes = torch.tensor(rows, dtype=torch.uint8)
    packed = pack(codes, bits)
    assert packed.tolist() == [planes_as_text(row, bits) for row in rows]
    assert packed.dtype == torch.uint8 and packed.shape[-1] == packed_width(len(rows[0]), bits)
    for dtype in (torch.uint8, torch.float32, torch.bfloat16):
        out = torch.full(codes.shape, 99, dtype=dtype)
        unpack(packed, bits, out)
        assert torch.equal(out.to(torch.uint8), codes)


@pytest.mark.parametrize("bits", PLANES)
def test_eight_codes_take_as_many_bytes_as_a_code_has_bits(bits: int) -> None:
    assert packed_width(64, bits) == 64 * bits // 8


@pytest.mark.parametrize("bits", PLANES)
def test_part_of_a_larger_tensor_is_unpacked_in_place(bits: int) -> None:
    codes = torch.randint(0, 2**bits, (5, 3, 16), dtype=torch.uint8)
    whole = torch.full((5, 7, 16), 7.5)
    unpack(pack(codes, bits), bits, whole[:, 2:5])
    assert torch.equal(whole[:, 2:5], codes.float())
    assert (whole[:, :2] == 7.5).all() and (whole[:, 5:] == 7.5).all()
