"""A recording's errors, without a device; recordings themselves are tested on one (`test_captured_gpu`)."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import Any, cast

import pytest
import torch

from fairkv_eval.engine.recording import Graphs
from fairkv_eval.engine.static_step import StaticStep


class Graph:
    """Stands in for a CUDA graph whose recording an operation has ended."""

    ended = 0

    def capture_begin(self) -> None:
        assert not gc.isenabled()

    def capture_end(self) -> None:
        Graph.ended += 1
        raise RuntimeError("operation failed due to a previous error during capture")


class Stream:
    def __init__(self, device: Any) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        pass


def test_what_ended_a_recording_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, stand_in in {"CUDAGraph": Graph, "Stream": Stream, "current_stream": Stream}.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, nullcontext)

    def step() -> None:
        raise RuntimeError("a number is read from the device")

    with pytest.raises(RuntimeError, match="a number is read"):
        Graphs(torch.device("cuda"))(cast(StaticStep, step))
    assert gc.isenabled() and Graph.ended == 1
