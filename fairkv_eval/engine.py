"""Runs (prompt, policy) jobs: prefill, tail, decode; rows leave when they stop and the next ones enter.

Everything is context → evict → tail. A generation runs its question as tail and then decodes; a log-likelihood runs
question and continuation as tail and reads logits. Jobs that share a context, under one policy or several, share its
prefill.
"""

from __future__ import annotations

import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from fairkv_eval.cache import ContextCache, RowCache
from fairkv_eval.jobs import Generate, Job, Result, Score, Totals
from fairkv_eval.phases import Context, Decode, Extend, Prefill, Tail, Variant
from fairkv_eval.prompt import Prompt
from fairkv_eval.sampling import Sampler


@dataclass(eq=False)
class _Row:
    """A generation in the running batch: what it has said, and where its next token goes."""

    index: int
    want: Generate
    position: int
    sampler: Sampler
    telemetry: dict[str, Any]
    tokens: list[int] = field(default_factory=list)


class Engine:
    """Runs jobs on a model attached to the seam (`attention.attach`).

    rows: sequences that decode together. max_prefill_tokens: tokens of one packed forward pass (a longer context runs
    alone). decode: tokens to text, for stop strings. eos: tokens that end a generation. autocast: context manager
    around each forward pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        layers: int,
        rows: int = 1,
        max_prefill_tokens: int = 4096,
        decode: Callable[[Sequence[int]], str] | None = None,
        eos: Iterable[int] = (),
        softmax_dtype: torch.dtype = torch.float32,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self.model = model
        self.layers = layers
        self.rows = rows
        self.max_prefill_tokens = max_prefill_tokens
        self.decode = decode
        self.eos = frozenset(eos)
        self.softmax_dtype = softmax_dtype
        self.autocast = autocast
        self.totals = Totals()
        self.device: Any = model.get_input_embeddings().weight.device

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[int, Result]]:
        """Results with the index of their job, in the order in which they finish."""
        waiting = deque(_by_context(jobs))
        open_contexts = _OpenContexts(jobs)
        cache = RowCache(min(self.rows, len(jobs)))
        running: list[_Row] = []
        while waiting or running:
            # Single arrivals would cost a forward pass each: let some places come free before the next group enters.
            while waiting and len(running) <= self.rows - max(1, self.rows // 4):
                group = self._next_group(waiting, self.rows - len(running), jobs, open_contexts)
                yield from self._admit(group, jobs, open_contexts, cache, running)
            if running:
                yield from self._decode_step(cache, running)

    def _next_group(
        self, waiting: deque[int], places: int, jobs: Sequence[Job], open_contexts: _OpenContexts
    ) -> list[int]:
        """Jobs for one prefill and one tail pass, as many as tokens and places allow, at least one."""
        group: list[int] = []
        contexts: set[tuple[int, ...]] = set()
        prefill = tail = 0
        while waiting and len(group) < places:
            job = jobs[waiting[0]]
            context = _context(job)
            fresh = context not in contexts and context not in open_contexts
            prefill += len(context) if fresh else 0
            tail += len(_tail_tokens(job))
            if group and max(prefill, tail) > self.max_prefill_tokens:
                break
            contexts.add(context)
            group.append(waiting.popleft())
        return group

    @torch.inference_mode()
    def _admit(
        self, group: list[int], jobs: Sequence[Job], open_contexts: _OpenContexts, cache: RowCache, running: list[_Row]
    ) -> list[tuple[int, Result]]:
        """Prefill a group's contexts, run its tails; scores are done, generations become rows."""
        self._prefill(open_contexts.open(group))
        tails, counts = [], []
        for index in group:
            job = jobs[index]
            tail = Tail(_tail_tokens(job), open_contexts.take(job), isinstance(job.want, Generate))
            tails.append(tail)
            counts.append(len(job.want.continuation) if isinstance(job.want, Score) else 1)
        started = time.perf_counter()
        logits = self._forward(
            Extend(tails),
            [t for tail in tails for t in tail.tokens],
            [p for tail in tails for p in range(tail.cache.tokens, tail.cache.tokens + len(tail.tokens))],
            _last_positions([len(tail.tokens) for tail in tails], counts),
        )
        done: list[tuple[int, Result]] = []
        for index, tail, own in zip(group, tails, logits.split(counts), strict=True):
            job, telemetry = jobs[index], _telemetry(jobs[index].prompt, tail.cache)
            if isinstance(job.want, Score):
                done.append((index, self._score(job.want, own, telemetry)))
                continue
            sampler = Sampler(job.want.sampling, job.prompt.tokens)
            row = _Row(index, job.want, len(job.prompt.tokens), sampler, telemetry)
            row.tokens.append(sampler.choose(own[0].float()))
            if self._finished(row):
                done.append((index, _generated(row)))
            else:
                cache.add(tail.keys, tail.values)
                running.append(row)
        self.totals.tail_seconds += time.perf_counter() - started
        self.totals.tail_tokens += sum(len(tail.tokens) for tail in tails)
        return done

    def _prefill(self, contexts: list[Context]) -> None:
        contexts = [context for context in contexts if context.tokens]
        if not contexts:
            return
        started = time.perf_counter()
        lengths = [len(context.tokens) for context in contexts]
        tokens = [token for context in contexts for token in context.tokens]
        positions = [position for length in lengths for position in range(length)]
        self._forward(Prefill(contexts, self.layers), tokens, positions, [len(tokens) - 1])
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        totals = self.totals
        totals.prefill_seconds += time.perf_counter() - started
        totals.prefill_tokens += len(tokens)
        for cache in (cache for context in contexts for cache in context.caches.values()):
            totals.contexts += 1
            totals.kv_pairs_full += cache.full_pairs
            totals.kv_pairs_kept += cache.pairs
            totals.kv_bytes_full += cache.full_bytes
            totals.kv_bytes_kept += cache.nbytes

    @torch.inference_mode()
    def _decode_step(self, cache: RowCache, running: list[_Row]) -> list[tuple[int, Result]]:
        """One more token for every row; rows that stop leave, from the last to the first."""
        started = time.perf_counter()
        rows = len(running)
        logits = self._forward(
            Decode(cache), [row.tokens[-1] for row in running], [row.position for row in running], list(range(rows))
        )
        largest = logits.argmax(-1).tolist()
        done: list[tuple[int, Result]] = []
        for i in range(rows - 1, -1, -1):
            row = running[i]
            row.position += 1
            row.tokens.append(largest[i] if row.sampler.greedy else row.sampler.choose(logits[i].float()))
            if self._finished(row):
                done.append((row.index, _generated(row)))
                cache.remove(i)
                running[i] = running[-1]
                running.pop()
        self.totals.decode_tokens += rows
        self.totals.decode_seconds += time.perf_counter() - started
        return done

    def _forward(self, phase: Any, tokens: list[int], positions: list[int], wanted: list[int]) -> Tensor:
        """One pass over packed tokens; the logits ``[len(wanted), vocabulary]`` at the wanted places."""

        def as_tensor(values: list[int]) -> Tensor:
            return torch.tensor(values, device=self.device)

        with self.autocast():
            output = self.model(
                input_ids=as_tensor(tokens)[None],
                position_ids=as_tensor(positions)[None],
                use_cache=False,
                logits_to_keep=as_tensor(wanted),
                kv=phase,
            )
        logits = output.logits[0]
        # A model that does not know logits_to_keep gives them all.
        return logits if len(logits) == len(wanted) else logits[wanted]

    def _score(self, want: Score, logits: Tensor, telemetry: dict[str, Any]) -> Result:
        continuation = torch.tensor(want.continuation, device=logits.device)
        logprobs = logits.log_softmax(-1, dtype=self.softmax_dtype).gather(1, continuation[:, None])
        greedy = bool((logits.argmax(-1) == continuation).all())
        return Result(telemetry, logprob=float(logprobs.sum()), greedy=greedy)

    def _finished(self, row: _Row) -> bool:
        if row.tokens[-1] in self.eos or len(row.tokens) >= row.want.max_tokens:
            return True
        if not row.want.stop or self.decode is None:
            return False
        # A token is at least one byte, so a stop string that ends here begins within this many tokens.
        longest = max(len(stop.encode()) for stop in row.want.stop)
        text = self.decode(row.tokens[-longest - 4 :])
        return any(stop in text for stop in row.want.stop)


class _OpenContexts:
    """Contexts that jobs still wait for, each prefilled once for all its variants and dropped with its last job."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs
        self._left = Counter(_context(job) for job in jobs)
        self._variants: dict[tuple[int, ...], dict[Variant, None]] = {}
        self._open: dict[tuple[int, ...], Context] = {}
        for job in jobs:
            self._variants.setdefault(_context(job), {})[_variant(job)] = None

    def __contains__(self, tokens: tuple[int, ...]) -> bool:
        return tokens in self._open

    def open(self, group: Sequence[int]) -> list[Context]:
        """Open the contexts of a group of jobs; those that were not open yet are returned, to be prefilled."""
        fresh = []
        for job in (self._jobs[index] for index in group):
            tokens = _context(job)
            if tokens not in self._open:
                caches = {variant: ContextCache(len(tokens)) for variant in self._variants[tokens]}
                context = Context(tokens, job.label, zlib.crc32(repr(tokens).encode()), caches)
                self._open[tokens] = context
                fresh.append(context)
        return fresh

    def take(self, job: Job) -> ContextCache:
        """This job's cache; the last job to ask closes its context."""
        tokens = _context(job)
        cache = self._open[tokens].caches[_variant(job)]
        self._left[tokens] -= 1
        if not self._left[tokens]:
            del self._open[tokens]
        return cache


def _context(job: Job) -> tuple[int, ...]:
    return job.prompt.tokens[: job.prompt.context]


def _variant(job: Job) -> Variant:
    return Variant(job.policy, job.prompt.segments)


def _by_context(jobs: Sequence[Job]) -> list[int]:
    """Indices of the jobs, those that share a context side by side, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(_context(job), []).append(index)
    return [index for group in groups.values() for index in group]


def _tail_tokens(job: Job) -> tuple[int, ...]:
    tail = job.prompt.tokens[job.prompt.context :]
    return tail + job.want.continuation[:-1] if isinstance(job.want, Score) else tail


def _last_positions(lengths: Sequence[int], counts: Sequence[int]) -> list[int]:
    """Places of the last ``counts[i]`` tokens of each packed sequence."""
    places: list[int] = []
    end = 0
    for length, count in zip(lengths, counts, strict=True):
        end += length
        places.extend(range(end - count, end))
    return places


def _generated(row: _Row) -> Result:
    return Result({**row.telemetry, "generated_tokens": len(row.tokens)}, tokens=tuple(row.tokens))


def _telemetry(prompt: Prompt, cache: ContextCache) -> dict[str, Any]:
    """What eviction did to a prompt's context, as plain values."""
    lengths: dict[str, int] = {}
    for segment in prompt.segments:
        lengths[segment.name] = lengths.get(segment.name, 0) + segment.stop - segment.start
    rate = cache.pairs / cache.full_pairs if cache.full_pairs else 1.0
    segments = {
        name: cache.segment_kept[name] / (cache.slots * length) if cache.slots else 1.0
        for name, length in lengths.items()
    }
    return {
        "context_tokens": prompt.context,
        "kept_tokens": prompt.context * rate,
        "keep_rate": rate,
        "segments": segments,
        "kv_bytes_full": cache.full_bytes,
        "kv_bytes_kept": cache.nbytes,
        "folded_system": prompt.folded,
        "truncated_tokens": prompt.truncated,
    }
