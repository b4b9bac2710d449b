"""Decode steps that a CUDA device replays from a graph, so that the host need not issue each operation of each layer.

If all rows take the likeliest token, a step's tokens stay on the device, where the next step takes them; the host
reads them while that next step runs. So an answer ends one step late, and its row computes one token that is dropped.
If a row draws or reports its entropy, the host chooses from the logits of the replayed step. Rows that ended keep their
slots until rows enter, or until half of them have ended.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from fairkv_eval.attention.backend import Backend
from fairkv_eval.engine.answer_reader import add_entropy, next_tokens
from fairkv_eval.engine.batch import Batch, Row
from fairkv_eval.engine.buffer import Buffer
from fairkv_eval.engine.decoder import Chosen, Decoder, Eager
from fairkv_eval.engine.recording import Graphs, Recorder, compare
from fairkv_eval.engine.runner import Runner
from fairkv_eval.engine.static_step import StaticStep, key_of
from fairkv_eval.errors import first_line

COMPILE = ("auto", "off")  # see `chosen_decoder`
ROOM = 256  # steps after which buffers grow, which ends a recording
FEWEST = 8  # steps that are worth a recording, which takes the host as long as two or three


class Flight(NamedTuple):
    """A step that was issued: its batch, rows by place, tokens on their way to the host, and whether they are there."""

    batch: Batch
    places: list[tuple[int, Row]]
    tokens: Tensor
    arrived: torch.cuda.Event | None

    def chosen(self) -> Chosen:
        """The tokens of the rows that have not ended, once they have arrived."""
        if self.arrived:
            self.arrived.synchronize()
        tokens = self.tokens.tolist()
        return [(row, tokens[place]) for place, row in self.places if row not in self.batch.ended]


class Captured:
    """Steps recorded once and replayed; what cannot be recorded runs eagerly, and a note says why.

    record: makes what replays a step; by default a CUDA graph. ``replays`` counts the replayed steps.
    """

    def __init__(
        self, runner: Runner, backend: Backend, note: Callable[[str], None], record: Recorder | None = None
    ) -> None:
        self.runner = runner
        self.backend = backend
        self.eager: Decoder = Eager(runner, backend)
        self.note = note
        self.record = record or Graphs(runner.device)
        self.replays = 0
        self.broken = False
        self._compared = False
        self._step: StaticStep | None = None
        self._replay: Callable[[], object] | None = None
        self._flight: Flight | None = None
        self._composition: tuple[Batch, int] | None = None  # the batch, and how many rows had entered it
        self._places: list[tuple[int, Row]] = []
        self._n_steps = 0  # since the rows were uploaded
        self._likeliest = True  # whether every row takes the likeliest token

    def step(self, batch: Batch) -> Chosen:
        """See `Decoder.step`."""
        if not self._holds(batch):
            if chosen := self.drain(batch):
                return chosen
            batch.settle()
            if self.broken or not recordable(batch):
                return self.eager.step(batch)
            self._upload(batch)
        self._run()
        if not self._likeliest:
            return self._choose(batch)
        assert self._step is not None
        earlier, self._flight = self._flight, Flight(batch, self._places, *on_the_way(self._step.tokens[0]))
        return earlier.chosen() if earlier else []

    def drain(self, batch: Batch) -> Chosen:
        """See `Decoder.drain`."""
        flight = None
        if self._composition and self._composition[0] is batch:
            flight, self._flight = self._flight, None
        self._set_down()
        return flight.chosen() if flight else []

    def release(self) -> None:
        """See `Decoder.release`."""
        self._set_down()
        self._step = self._replay = None
        self._places = []

    def _set_down(self) -> None:
        """Note how long the uploaded rows have become. A step whose tokens nobody has read counts as not run."""
        if self._composition:
            assert self._step is not None
            for bank in self._step.banks:
                bank.advance(self._n_steps - bool(self._flight))
        self._flight = self._composition = None

    def _holds(self, batch: Batch) -> bool:
        """Whether the uploaded rows are those of the batch, enough of them are alive, and there is room."""
        return (
            self._composition == (batch, batch.entered) and self._n_steps < ROOM and 2 * len(batch) >= len(self._places)
        )

    def _upload(self, batch: Batch) -> None:
        """Bring the rows of a settled batch to the device; a step that was recorded for the same buffers stays."""
        banks, rows = [bank for bank in batch.banks if bank.rows], batch.rows
        empty = 2 * len(rows) <= sum(bank.cache.slots for bank in banks)
        for bank in banks:
            if empty:
                bank.cache.resize(len(bank.rows))
            bank.cache.reserve([steps_ahead(row) for row in bank.rows])
        if self._step is None or self._step.key != key_of(banks):
            self._step = self._replay = None  # give back their memory first
            self._step = StaticStep(banks, self.runner, self.backend)
        self._step.upload({row: row.position + steps_ahead(row) for row in rows})
        self._composition, self._places, self._n_steps = (batch, batch.entered), self._step.places, 0
        self._likeliest = all(row.sampler.greedy and not row.want.entropy for row in rows)

    def _run(self) -> None:
        """Start a step: replayed, if it is not the first since its buffers came."""
        assert self._step is not None
        if self._replay is None and self._n_steps and not self.broken:
            # Not before one step has run: what libraries prepare on first use must not be part of a recording.
            self._replay = self._recorded(self._step)
        if self._replay:
            self._replay()
            self.replays += 1
        else:
            self._step()
        self._n_steps += 1

    def _choose(self, batch: Batch) -> Chosen:
        """Let the rows choose their tokens from a step's logits, and bring them to the device."""
        assert self._step is not None
        places, rows = zip(*((place, row) for place, row in self._places if row not in batch.ended), strict=True)
        logits = self._step.logits[[*places]]
        add_entropy(rows, logits)
        tokens = next_tokens(rows, logits)
        self._step.put_tokens(places, tokens)
        return [*zip(rows, tokens, strict=True)]

    def _recorded(self, step: StaticStep) -> Callable[[], object] | None:
        """What replays a step; None if it cannot be recorded, or if the first replay is not what an eager step is."""
        try:
            replay = self.record(step)
            if not self._compared:
                compare(step, replay)
                self._compared = True
            return replay
        except RuntimeError as error:
            self.broken = True
            self.note(f"decode steps run eagerly, since they could not be recorded: {first_line(error)}")
            return None


def chosen_decoder(runner: Runner, backend: Backend, note: Callable[[str], None], compile: str) -> Decoder:
    """``auto``: recorded steps if the whole model is on one CUDA device; ``off``, and elsewhere: eager ones."""
    devices = {parameter.device for parameter in runner.model.parameters()}
    if compile == "off" or len(devices) > 1 or runner.device.type != "cuda":
        return Eager(runner, backend)
    return Captured(runner, backend, note)


def steps_ahead(row: Row) -> int:
    """How many steps a row may run before rows are brought to the device again."""
    return min(row.want.max_tokens - len(row.tokens), ROOM)


def recordable(batch: Batch) -> bool:
    """Whether all rows hold plain pairs and evict none while decoding, and one goes on for long enough."""
    rows = batch.rows
    plain = all(isinstance(buffer, Buffer) for cache in batch.caches for buffer in cache.buffers)
    keeping = all(row.budget is None for row in rows)
    return plain and keeping and any(row.want.max_tokens - len(row.tokens) >= FEWEST for row in rows)


def on_the_way(tokens: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """A copy of the tokens on the host, and the event after which it is complete."""
    if not tokens.is_cuda:
        return tokens.clone(), None
    host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    host.copy_(tokens, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return host, arrived
