"""Runs (prompt, policy) jobs: schedule, run, read the answers; rows leave when they end and the next ones enter.

Everything is context → evict → tail. A generation runs its question as tail and then decodes; a log-likelihood runs
question and continuation as tail and reads logits. Jobs that share a context, under one policy or several, share its
prefill.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Backend
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.answer_reader import AnswerReader, add_entropy
from fairkv_eval.engine.batch import Batch, Row
from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.engine.captured import chosen_decoder
from fairkv_eval.engine.context import Context, Watcher
from fairkv_eval.engine.decode_budget import DecodeBudget
from fairkv_eval.engine.decoder import Chosen
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.phases import Extend, Prefill, Rotations, Tail
from fairkv_eval.engine.replay import Replay, Replays
from fairkv_eval.engine.result import Result, telemetry
from fairkv_eval.engine.runner import Runner
from fairkv_eval.engine.sampling import Sampler, request_seed
from fairkv_eval.engine.scheduler import Group, Member, Scheduler
from fairkv_eval.engine.totals import Totals
from fairkv_eval.errors import naming
from fairkv_eval.eviction.replays import Ask
from fairkv_eval.prompts.whitelist import whitelist

log = logging.getLogger(__name__)


class Engine:
    """Runs jobs on a model attached to the seam (`check.attach_checked`, which returns the ``windows`` of its layers).

    rows: sequences that decode together. max_prefill_tokens: tokens of one packed forward pass; a longer context runs
    alone, in chunks of that size. decode: tokens to text, for stop strings. ask: a request to the model in tokens, for
    presses that replay. eos: tokens that end a generation. autocast: context manager around each forward pass.
    backend: what attends. compile: see `chosen_decoder`. note: takes what the results should say.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        windows: Sequence[int | None],
        rows: int = 1,
        max_prefill_tokens: int = 4096,
        decode: Callable[[Sequence[int]], str] | None = None,
        ask: Ask | None = None,
        eos: Iterable[int] = (),
        softmax_dtype: torch.dtype = torch.float32,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        backend: Backend = SDPA,
        compile: str = "auto",
        note: Callable[[str], None] = log.warning,
    ) -> None:
        self.windows = windows
        self.rows = rows
        self.ask = ask
        self.backend = backend
        self.runner = Runner(model, max_prefill_tokens, autocast)
        self.reader = AnswerReader(decode, eos, softmax_dtype)
        self.decoder = chosen_decoder(self.runner, backend, note, compile)
        self.totals = Totals()

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """Results with the index of their job, in the order in which they finish."""
        scheduler, batch = self.scheduler(jobs), Batch(min(self.rows, len(jobs)))
        try:
            while scheduler or batch:
                if scheduler and batch.has_room:
                    yield from self.drain(batch)
                    while group := scheduler.next(batch.places):
                        self.prefill(group)
                        yield from self.admit(group, batch)
                if batch:
                    yield from self.decode_step(batch)
        finally:
            self.decoder.release()

    def watch(self, job: Job, watcher: Watcher) -> ContextCache:
        """Prefill a job's context before the eyes of a watcher; return what its policy keeps of it."""
        group = self.scheduler([job], watcher).next(places=1)
        assert group is not None
        self.prefill(group)
        return group.members[0].cache

    def scheduler(self, jobs: Sequence[Job], watcher: Watcher | None = None) -> Scheduler:
        """These jobs, in the order in which this engine takes them."""
        in_bytes = any(job.policy.budget_bytes is not None for job in jobs)
        entries = self.runner.entries if in_bytes else ()
        return Scheduler(jobs, self.windows, self.runner.max_tokens, watcher, entries)

    @torch.inference_mode()
    def prefill(self, group: Group) -> None:
        """Run a group's new contexts, and evict."""
        contexts = group.contexts
        if not contexts:
            return
        started = time.perf_counter()
        rotations = self._rotations(group.inspected)
        phase = Prefill(
            contexts, len(self.windows), rotations, group.stem, group.next_stem, group.inspected, self.backend
        )
        self.runner.prefill(phase)
        self.totals.replay_tokens += self._replay(contexts)
        self.runner.synchronize()
        self.totals.prefill_seconds += time.perf_counter() - started
        self.totals.prefill_tokens += len(phase.tokens)
        self.totals.shared_tokens += sum(len(context.tokens) for context in contexts) - len(phase.tokens)
        for cache in (cache for context in contexts for cache in context.caches.values()):
            self.totals.add_context(cache)

    @torch.inference_mode()
    def admit(self, group: Group, batch: Batch) -> list[tuple[int, Result]]:
        """Run a group's tails: log-likelihoods are done, generations become rows of the batch."""
        started = time.perf_counter()
        tails = [_tail(member) for member in group.members]
        done, entering = [], []
        for member, tail, logits in zip(group.members, tails, self._tail_logits(group, tails), strict=True):
            outcome = self._outcome(member, tail, logits)
            if isinstance(outcome, Row):
                entering.append((outcome, tail.layers))
            else:
                done.append((member.index, outcome))
        batch.add(entering)
        self.totals.tail_seconds += time.perf_counter() - started
        self.totals.tail_tokens += sum(len(tail.tokens) for tail in tails)
        return done

    @torch.inference_mode()
    def decode_step(self, batch: Batch) -> list[tuple[int, Result]]:
        """Run one more step of every row, and read the tokens that have arrived; rows that end leave."""
        return self._read(batch, self.decoder.step)

    @torch.inference_mode()
    def drain(self, batch: Batch) -> list[tuple[int, Result]]:
        """Read the tokens of a step that still runs, so that rows may enter."""
        done = self._read(batch, self.decoder.drain)
        batch.drop_ended()
        return done

    def _read(self, batch: Batch, decoded: Callable[[Batch], Chosen]) -> list[tuple[int, Result]]:
        """Give rows the tokens that they have chosen. Return the results of those that end."""
        started = time.perf_counter()
        chosen = decoded(batch)
        for row, token in chosen:
            row.advance(token)
        ended = [row for row, _ in chosen if self.reader.ended(row)]
        batch.end(ended)
        self.totals.answers_cut += sum(self.reader.cut(row.want, row.tokens) for row in ended)
        self.totals.decode_tokens += len(chosen)
        self.totals.replayed_steps = self.decoder.replays
        self.totals.decode_seconds += time.perf_counter() - started
        return [(row.index, row.result) for row in ended]

    def _replay(self, contexts: Sequence[Context]) -> int:
        """Run the replays that the contexts' variants wait for, and evict by them; return their tokens."""
        replays = Replays(contexts, self.ask)
        for tails in replays.groups(self.runner.max_tokens):
            phase = Replay(tails, self.backend)
            with phase.watching(replays.attentions):
                self.runner.forward(phase, phase.tokens, phase.positions, [len(phase.tokens) - 1])
        replays.finish()
        return replays.n_tokens

    def _tail_logits(self, group: Group, tails: Sequence[Tail]) -> Sequence[Tensor]:
        """For each tail the logits ``[n_predictions, vocabulary]`` of its last tokens."""
        rotations = self._rotations(any(tail.budget for tail in tails))
        phase = Extend(tails, rotations, self.backend)
        counts = [member.job.n_predictions for member in group.members]
        places = _last_places([len(tail.tokens) for tail in tails], counts)
        logits = self.runner.forward(phase, phase.tokens, phase.positions, places)
        by_tail: tuple[Tensor, ...] = logits.split(counts)
        return by_tail

    def _outcome(self, member: Member, tail: Tail, logits: Tensor) -> Result | Row:
        """The result of a job that is done with its tail; else its row, which has its first token."""
        prompt, want = member.job.prompt, member.job.want
        figures = telemetry(prompt, member.job.policy, member.cache)
        if isinstance(want, LogLikelihood):
            return self.reader.scored(want, logits, figures)
        sampler, position = Sampler(want.sampling, prompt.tokens), member.cache.position + len(tail.tokens)
        row = Row(member.index, want, position, sampler, figures, tail.budget)
        row.tokens.append(sampler.choose(logits[0].float()))
        add_entropy([row], logits)
        if not self.reader.ended(row):
            return row
        self.totals.answers_cut += self.reader.cut(want, row.tokens)
        return row.result

    def _rotations(self, needed: bool) -> Rotations:
        return self.runner.rotations if needed else ()


def _tail(member: Member) -> Tail:
    job = member.job
    tail = Tail(job.tail, member.cache, continues=isinstance(job.want, Generation))
    if isinstance(job.want, Generation) and job.policy.decode_budget is not None:
        with naming(job.label):
            prompt = job.prompt
            must_stay = whitelist(prompt.segments, prompt.marks, job.policy.keep, prompt.context_length)
            seed = request_seed("merge", job.want.sampling.seed, prompt.tokens)
            tail.budget = DecodeBudget(job.policy, member.cache, must_stay, job.label, seed)
    return tail


def _last_places(lengths: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Places of the last ``counts[i]`` tokens of each packed sequence."""
    places: list[int] = []
    end = 0
    for length, count in zip(lengths, counts, strict=True):
        end += length
        places.extend(range(end - count, end))
    return places
