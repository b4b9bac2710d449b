"""A long sequence in chunks that go through a model side by side, one layer at a time.

Chunks one after another would need every layer's keys until the last chunk has run. Here each chunk's forward pass
waits before every attention until the chunks before it have been there, so a layer is complete, and can be evicted,
before any chunk leaves the next one. Memory holds, at any time, one layer's keys and values of the whole sequence, the
hidden states of all chunks, and the wide intermediate states of a single one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context

from greenlet import getcurrent, greenlet
from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.seam import Phase


def lockstep(phase: Phase, runs: Sequence[Callable[[Phase], None]]) -> None:
    """Call every run with a phase to attend through; layer by layer, in the order of the runs, they reach ``phase``.

    Each run is a forward pass that calls the attention of every layer in order. The first error ends all of them.
    """
    chunks = [greenlet(run) for run in runs]
    turn = _Turn(phase, getcurrent())
    try:
        for chunk in chunks:
            chunk.gr_context = copy_context()
            chunk.switch(turn)
        while not all(chunk.dead for chunk in chunks):
            for chunk in chunks:
                chunk.switch()
    finally:
        for chunk in chunks:
            if not chunk.dead:
                chunk.throw()


class _Turn:
    """A phase whose attention waits for its turn."""

    def __init__(self, phase: Phase, others: greenlet) -> None:
        self.phase = phase
        self.others = others

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """See `Phase.attend`."""
        self.others.switch()
        return self.phase.attend(q, k, v, options)
