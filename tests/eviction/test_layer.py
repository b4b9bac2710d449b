"""One layer's attention, computed in blocks."""

from __future__ import annotations

import pytest
import torch
from scores_by_loops import make_layer

from fairkv_eval.eviction import layer as layer_module


def test_blocks_are_the_rows_of_the_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_module, "BLOCK_ELEMENTS", 1)
    layer = make_layer(50)
    whole = layer.attention(7, 50)
    row = 0
    for block in layer.attention_blocks(7, 50):
        rows, seen = block.shape[1:]
        torch.testing.assert_close(block, whole[:, row : row + rows, :seen])
        row += rows
    assert row == 43
