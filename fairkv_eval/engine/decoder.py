"""How the rows of a batch get their next tokens: one forward pass, issued operation by operation."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from fairkv_eval.attention.backend import Backend
from fairkv_eval.engine.answer_reader import add_entropy, next_tokens
from fairkv_eval.engine.batch import Batch, Row
from fairkv_eval.engine.phases import Decode
from fairkv_eval.engine.runner import Runner

Chosen = list[tuple[Row, int]]  # rows, and the token that each has chosen


class Decoder(Protocol):
    """Runs decode steps. Call `drain`, and let rows that ended leave, before rows enter a batch.

    ``replays``: steps that ran from a recording.
    """

    replays: int

    def step(self, batch: Batch) -> Chosen:
        """Run a step of all rows. Return the tokens that have arrived: of this step, or of the one before it."""

    def drain(self, batch: Batch) -> Chosen:
        """The tokens of a step that still runs; none if no step does."""

    def release(self) -> None:
        """Give back the memory of steps. Call once a run is over or is left; its rows have not read a step that still
        runs."""


class Eager:
    """Runs a step and waits for its tokens."""

    def __init__(self, runner: Runner, backend: Backend) -> None:
        self.runner = runner
        self.backend = backend
        self.replays = 0

    def step(self, batch: Batch) -> Chosen:
        """See `Decoder.step`."""
        batch.settle()
        rows = batch.rows
        logits = self._logits(batch)
        add_entropy(rows, logits)
        return [*zip(rows, next_tokens(rows, logits), strict=True)]

    def drain(self, batch: Batch) -> Chosen:
        """See `Decoder.drain`."""
        return []

    def release(self) -> None:
        """See `Decoder.release`."""

    def _logits(self, batch: Batch) -> Tensor:
        """Logits ``[rows, vocabulary]`` after each row's last token."""
        rows = batch.rows
        budgets = {i: row.budget for i, row in enumerate(rows) if row.budget}
        for i, budget in budgets.items():
            budget.begin_step(rows[i].position)
        phase = Decode(batch.caches, budgets, self.runner.rotations if budgets else (), self.backend)
        tokens, positions = [row.tokens[-1] for row in rows], [row.position for row in rows]
        return self.runner.forward(phase, tokens, positions, list(range(len(rows))))
