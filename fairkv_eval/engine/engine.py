"""Runs (prompt, policy) jobs: prefill, tail, decode; rows leave when they stop and the next ones enter.

Everything is context → evict → tail. A generation runs its question as tail and then decodes; a log-likelihood runs
question and continuation as tail and reads logits. Jobs that share a context, under one policy or several, share its
prefill.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.attention.backend import Backend
from fairkv_eval.attention.rotation import Rotation, find_rotations
from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine.batch import Batch, Row
from fairkv_eval.engine.cache import ContextCache, Pairs
from fairkv_eval.engine.chunks import lockstep
from fairkv_eval.engine.context import Context, Watcher
from fairkv_eval.engine.jobs import Follow, Generate, Job, Result, Score, Totals
from fairkv_eval.engine.phases import Decode, Extend, Prefill, Tail
from fairkv_eval.engine.prefixes import common
from fairkv_eval.engine.replay import Replay, asked, finish
from fairkv_eval.engine.rolling import Rolling
from fairkv_eval.engine.sampling import Sampler, entropy
from fairkv_eval.engine.scheduler import OpenContexts, by_context, context_tokens
from fairkv_eval.errors import naming
from fairkv_eval.eviction.replays import Ask
from fairkv_eval.prompts.tokens import Prompt
from fairkv_eval.prompts.whitelist import whitelist


class Engine:
    """Runs jobs on a model attached to the seam (`check.attach_checked`, which gives the ``windows`` of its layers).

    rows: sequences that decode together. max_prefill_tokens: tokens of one packed forward pass; a longer context runs
    alone, in chunks of that size. decode: tokens to text, for stop strings. ask: a request to the model in tokens, for
    presses that replay. eos: tokens that end a generation. autocast: context manager around each forward pass.
    backend: what attends.
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
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        backend: Backend = SDPA,
    ) -> None:
        self.model = model
        self.windows = windows
        self.rows = rows
        self.max_prefill_tokens = max_prefill_tokens
        self.decode = decode
        self.ask = ask
        self.eos = frozenset(eos)
        self.softmax_dtype = softmax_dtype
        self.autocast = autocast
        self.backend = backend
        self.totals = Totals()
        self.device: Any = model.get_input_embeddings().weight.device

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """Results with the index of their job, in the order in which they finish."""
        waiting = deque(by_context(jobs))
        open_contexts = OpenContexts(jobs, self.windows)
        batch = Batch(min(self.rows, len(jobs)))
        while waiting or len(batch):
            # Single arrivals would cost a forward pass each: let some places come free before the next ones enter.
            enters = len(batch) <= self.rows - max(1, self.rows // 4)
            while enters and waiting and len(batch) < self.rows:
                group = self._next_group(waiting, self.rows - len(batch), jobs, open_contexts)
                fresh = open_contexts.open(group)
                self._prefill(fresh, open_contexts, open_contexts.following(waiting))
                yield from self._admit(group, jobs, open_contexts, batch)
            if len(batch):
                yield from self._decode_step(batch)

    def watch(self, job: Job, watcher: Watcher) -> ContextCache:
        """Prefill a job's context before the eyes of a watcher, and return what its policy leaves of it."""
        open_contexts = OpenContexts([job], self.windows)
        open_contexts.observed = True
        contexts = open_contexts.open([0])
        contexts[0].watcher = watcher
        self._prefill(contexts, open_contexts, ())
        return open_contexts.take(job)

    def _next_group(
        self, waiting: deque[int], places: int, jobs: Sequence[Job], open_contexts: OpenContexts
    ) -> list[int]:
        """Jobs for one prefill and one tail pass, as many as tokens and places allow, at least one."""
        group: list[int] = []
        before = open_contexts.stem.tokens if open_contexts.stem else ()
        prefill = tail = 0
        while waiting and len(group) < places:
            job = jobs[waiting[0]]
            context = context_tokens(job)
            # In this order a context has most in common with the one before it, or with what an earlier pass computed.
            fresh = context != before and context not in open_contexts
            prefill += len(context) - common(before, context) if fresh else 0
            tail += len(job.tail)
            if group and max(prefill, tail) > self.max_prefill_tokens:
                break
            before = context
            group.append(waiting.popleft())
        return group

    @torch.inference_mode()
    def _admit(
        self, group: list[int], jobs: Sequence[Job], open_contexts: OpenContexts, batch: Batch
    ) -> list[tuple[int, Result]]:
        """Run the tails of a group; scores are done, generations become rows."""
        tails, counts = [], []
        for index in group:
            job = jobs[index]
            cache_of_context = open_contexts.take(job)
            tail = Tail(job.tail, cache_of_context, isinstance(job.want, Generate))
            if tail.goes_on and job.policy.decode_budget is not None:
                tail.rolling = _rolling(job, cache_of_context)
            tails.append(tail)
            counts.append(len(job.want.continuation) if isinstance(job.want, Score) else 1)
        started = time.perf_counter()
        phase = Extend(tails, self._rotations if any(tail.rolling for tail in tails) else (), self.backend)
        wanted = _last_positions([len(tail.tokens) for tail in tails], counts)
        logits = self._forward(phase, phase.tokens, phase.positions, wanted)
        done: list[tuple[int, Result]] = []
        entering: list[tuple[Row, list[list[Pairs]]]] = []
        for index, tail, own in zip(group, tails, logits.split(counts), strict=True):
            job, telemetry = jobs[index], _telemetry(jobs[index].prompt, tail.cache)
            if isinstance(job.want, Score):
                done.append((index, self._score(job.want, own, telemetry)))
                continue
            sampler = Sampler(job.want.sampling, job.prompt.tokens)
            position = tail.cache.position + len(tail.tokens)
            row = Row(index, job.want, position, sampler, telemetry, tail.rolling)
            row.tokens.append(sampler.choose(own[0].float()))
            _add_entropy([row], own)
            if self._finished(row):
                done.append((index, row.result))
            else:
                entering.append((row, tail.layers))
        batch.add(entering)
        self.totals.tail_seconds += time.perf_counter() - started
        self.totals.tail_tokens += sum(len(tail.tokens) for tail in tails)
        return done

    @torch.inference_mode()
    def _prefill(self, contexts: list[Context], open_contexts: OpenContexts, following: Sequence[int]) -> None:
        """Prefill contexts; what the last has in common with the ``following`` one is kept for the next group."""
        contexts = [context for context in contexts if context.tokens]
        if not contexts:
            return
        started = time.perf_counter()
        stem, shared = open_contexts.stem, common(contexts[-1].tokens, following)
        keeps_stem = stem is not None and following[: stem.stop] == stem.tokens and shared <= stem.stop
        phase = Prefill(
            contexts,
            len(self.windows),
            self._rotations if open_contexts.observed else (),
            stem,
            0 if keeps_stem else shared,
            open_contexts.observed,
            self.backend,
        )
        tokens = phase.tokens
        self._forward_in_chunks(phase, tokens, phase.positions)
        open_contexts.stem = stem if keeps_stem else phase.kept
        replayed = self._replay(contexts)
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        totals = self.totals
        totals.prefill_seconds += time.perf_counter() - started
        totals.prefill_tokens += len(tokens)
        totals.shared_tokens += sum(len(context.tokens) for context in contexts) - len(tokens)
        totals.replay_tokens += replayed
        for cache in (cache for context in contexts for cache in context.caches.values()):
            totals.contexts += 1
            totals.kv_pairs_full += cache.full_pairs
            totals.kv_pairs_kept += cache.pairs
            totals.kv_bytes_full += cache.full_bytes
            totals.kv_bytes_kept += cache.nbytes

    @cached_property
    def _rotations(self) -> Sequence[Rotation | None]:
        return find_rotations(self.model)

    def _replay(self, contexts: Sequence[Context]) -> int:
        """Run the replays that variants wait for, evict by what they gave, and count their tokens."""
        replays = asked(contexts, self.ask)
        waiting = deque(tail for tails in replays.values() for tail in tails)
        total = 0
        while waiting:
            group = [waiting.popleft()]
            size = len(group[0].tokens)
            while waiting and size + len(waiting[0].tokens) <= self.max_prefill_tokens:
                size += len(waiting[0].tokens)
                group.append(waiting.popleft())
            phase = Replay(group, self.backend)
            self._forward(phase, phase.tokens, phase.positions, [size - 1])
            total += size
        finish(replays)
        return total

    @torch.inference_mode()
    def _decode_step(self, batch: Batch) -> list[tuple[int, Result]]:
        """One more token for every row; rows that stop leave."""
        started = time.perf_counter()
        batch.settle()
        rows = batch.rows
        rolling = {i: row.rolling for i, row in enumerate(rows) if row.rolling}
        for i, own in rolling.items():
            own.begin_step(rows[i].position)
        phase = Decode(batch.caches, rolling, self._rotations if rolling else (), self.backend)
        logits = self._forward(
            phase, [row.tokens[-1] for row in rows], [row.position for row in rows], list(range(len(rows)))
        )
        _add_entropy(rows, logits)
        largest = logits.float().argmax(-1).tolist()
        for i, row in enumerate(rows):
            row.position = row.rolling.next_position if row.rolling else row.position + 1
            row.tokens.append(largest[i] if row.sampler.greedy else row.sampler.choose(logits[i].float()))
        stopped = [row for row in rows if self._finished(row)]
        batch.remove(stopped)
        self.totals.decode_tokens += len(rows)
        self.totals.decode_seconds += time.perf_counter() - started
        return [(row.index, row.result) for row in stopped]

    def _forward_in_chunks(self, phase: Prefill, tokens: list[int], positions: list[int]) -> None:
        """Run packed contexts; more tokens than one pass takes go in chunks, layer by layer side by side."""
        chunks = -(-len(tokens) // self.max_prefill_tokens)
        edges = [len(tokens) * i // chunks for i in range(chunks + 1)]

        def run(start: int, stop: int, kv: Any) -> None:
            self._forward(kv, tokens[start:stop], positions[start:stop], [stop - start - 1])

        if chunks == 1:
            run(0, len(tokens), phase)
            return
        with self.autocast():  # one for all: those of chunks would not close in the order in which they open
            lockstep(phase, [partial(run, start, stop) for start, stop in pairwise(edges)])

    def _forward(self, phase: Any, tokens: list[int], positions: list[int], wanted: list[int]) -> Tensor:
        """One pass over packed tokens; the logits ``[len(wanted), vocabulary]`` at the wanted places."""

        def as_tensor(values: list[int]) -> Tensor:
            return torch.tensor(values, device=self.device)

        with self.autocast():
            output = self.model(
                input_ids=as_tensor(tokens)[None],
                position_ids=as_tensor(positions)[None],
                use_cache=False,
                logits_to_keep=wanted,  # a tensor would be moved to the first device, where these states are not
                kv=phase,
            )
        logits = output.logits[0]
        # A model that does not know logits_to_keep gives them all.
        return logits if len(logits) == len(wanted) else logits[wanted]

    def _score(self, want: Score, logits: Tensor, telemetry: dict[str, Any]) -> Result:
        if isinstance(want, Follow):
            return Result(telemetry, fidelity=want.lead.compare(logits))
        continuation = torch.tensor(want.continuation, device=logits.device)
        logprobs = logits.log_softmax(-1, dtype=self.softmax_dtype).gather(1, continuation[:, None])
        greedy = bool((logits.argmax(-1) == continuation).all())
        told = {**telemetry, "continuation_tokens": len(continuation)}
        return Result(told, logprob=float(logprobs.sum()), greedy=greedy)

    def _finished(self, row: Row) -> bool:
        if row.tokens[-1] in self.eos or len(row.tokens) >= row.want.max_tokens:
            return True
        if not row.want.stop or self.decode is None:
            return False
        # A token is at least one byte, so a stop string that ends here begins within this many tokens.
        longest = max(len(stop.encode()) for stop in row.want.stop)
        text = self.decode(row.tokens[-longest - 4 :])
        return any(stop in text for stop in row.want.stop)


def _rolling(job: Job, cache: ContextCache) -> Rolling:
    prompt = job.prompt
    with naming(job.label):
        listed = whitelist(prompt.segments, prompt.marks, job.policy.keep, prompt.context_length)
        return Rolling(job.policy, cache, listed, job.label)


def _last_positions(lengths: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Places of the last ``counts[i]`` tokens of each packed sequence."""
    places: list[int] = []
    end = 0
    for length, count in zip(lengths, counts, strict=True):
        end += length
        places.extend(range(end - count, end))
    return places


def _add_entropy(rows: Sequence[Row], logits: Tensor) -> None:
    """Add what the logits ``[rows, vocabulary]`` say of the rows that ask for it."""
    asking = [i for i, row in enumerate(rows) if row.want.entropy]
    for i, nats in zip(asking, entropy(logits[asking]).tolist() if asking else (), strict=True):
        rows[i].entropy += nats


def _telemetry(prompt: Prompt, cache: ContextCache) -> dict[str, Any]:
    """What eviction did to a prompt's context, as plain values."""
    rate = cache.pairs / cache.full_pairs if cache.full_pairs else 1.0
    return {
        "context_tokens": prompt.context_length,
        "kept_tokens": prompt.context_length * rate,
        "keep_rate": rate,
        "segments": cache.segments or {segment.name: 1.0 for segment in prompt.segments},
        "kv_bytes_full": cache.full_bytes,
        "kv_bytes_kept": cache.nbytes,
        "folded_system": prompt.folded,
        "truncated_tokens": prompt.truncated,
    }
