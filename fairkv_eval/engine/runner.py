"""How a pass runs: a phase through a model that is attached to the seam, whole or in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.rotation import Rotation, find_rotations
from fairkv_eval.attention.seam import Phase, embedding
from fairkv_eval.engine.chunks import lockstep
from fairkv_eval.engine.memory import entries
from fairkv_eval.engine.phases import Prefill
from fairkv_eval.storage.room import Entry


class Runner:
    """Runs phases on one model. max_tokens: of one pass. autocast: context manager around each forward pass."""

    def __init__(
        self,
        model: PreTrainedModel,
        max_tokens: int,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self.model = model
        self.max_tokens = max_tokens
        self.autocast = autocast
        self.device = embedding(model).device

    @cached_property
    def rotations(self) -> Sequence[Rotation | None]:
        """How each layer turns its keys, measured when first asked for."""
        return find_rotations(self.model)

    @cached_property
    def entries(self) -> Sequence[Entry]:
        """What a token adds to each layer, measured when first asked for."""
        with self.autocast():
            return entries(self.model)

    def forward(self, phase: Phase, tokens: list[int], positions: list[int], wanted: list[int]) -> Tensor:
        """Run one pass over packed tokens; return the logits ``[len(wanted), vocabulary]`` at the wanted places."""
        ids, at = (torch.tensor(values, device=self.device)[None] for values in (tokens, positions))
        last = wanted == list(range(len(tokens) - len(wanted), len(tokens)))
        # A number if it will do: a list becomes a tensor on the device, for which the host waits until all layers
        # have run. A tensor would be moved to the first device, where these states are not.
        logits = self.logits(phase, ids, at, len(wanted) if last else wanted)
        # A model that does not know logits_to_keep returns them all.
        return logits if len(logits) == len(wanted) else logits[wanted]

    def logits(self, phase: Phase, ids: Tensor, positions: Tensor, keep: int | list[int]) -> Tensor:
        """Run one pass over packed tokens, ids and positions ``[1, n]``; return the logits ``[kept, vocabulary]`` of
        the last ``keep``, or at these places; of all, if the model does not know of that."""
        with self.autocast():
            output = self.model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=keep, kv=phase)
        logits: Tensor = output.logits[0]
        return logits

    def prefill(self, phase: Prefill) -> None:
        """Run packed contexts. More tokens than one pass takes run in chunks, side by side, layer by layer."""
        tokens, positions = phase.tokens, phase.positions
        n_chunks = -(-len(tokens) // self.max_tokens)
        edges = [len(tokens) * i // n_chunks for i in range(n_chunks + 1)]

        def run(start: int, stop: int, kv: Phase) -> None:
            self.forward(kv, tokens[start:stop], positions[start:stop], [stop - start - 1])

        if n_chunks == 1:
            run(0, len(tokens), phase)
            return
        with self.autocast():  # one for all: those of chunks would not close in the order in which they open
            lockstep(phase, [partial(run, start, stop) for start, stop in pairwise(edges)])

    def synchronize(self) -> None:
        """Wait for the device, so that seconds measured on the host are those of the work."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
