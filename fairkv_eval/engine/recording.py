"""A step's recording: made as a CUDA graph, and compared with an eager step before it is used."""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress

import torch

from fairkv_eval.engine.agreement import deviations
from fairkv_eval.engine.static_step import StaticStep

CLOSE = 0.1  # standard deviations of the logits: what another kernel may round differently in half precision

Recorder = Callable[[StaticStep], Callable[[], object]]  # a step to what replays it


class Graphs:
    """Records steps as CUDA graphs, each in a memory of its own, which goes with it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def __call__(self, step: StaticStep) -> Callable[[], object]:
        graph = torch.cuda.CUDAGraph()
        collecting = gc.isenabled()
        gc.disable()  # a tensor or graph that is given back while a stream records ends the recording
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                graph.capture_begin()
                try:
                    step()
                except BaseException:
                    with suppress(RuntimeError):  # it would hide what ended the recording
                        graph.capture_end()
                    raise
                graph.capture_end()
        finally:
            if collecting:
                gc.enable()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return graph.replay


def compare(step: StaticStep, replay: Callable[[], object]) -> None:
    """Raise RuntimeError unless a replayed step gives the logits of an eager one; the step has not run after that.

    Some models keep a tensor that they make in their first step, or decide on the host by what they see there. What a
    step appends is written again by the next one in its place.
    """
    recorded, state = step.logits, [tensor.clone() for tensor in step.state]
    step()
    expected, step.logits = step.logits, recorded
    for tensor, before in zip(step.state, state, strict=True):
        tensor.copy_(before)
    replay()
    difference = deviations(expected, step.logits)
    for tensor, before in zip(step.state, state, strict=True):
        tensor.copy_(before)
    if not difference <= CLOSE:
        raise RuntimeError(f"a replayed step's logits differ by {difference:.2g} standard deviations")
