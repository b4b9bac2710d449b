"""Which jobs share a context, and the contexts that some of them still wait for."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.engine.context import Context, Variant
from fairkv_eval.engine.jobs import Job
from fairkv_eval.engine.prefixes import Part


class OpenContexts:
    """Contexts that jobs still wait for, each prefilled once for all its variants and dropped with its last job.

    ``stem``: what the next contexts begin with, as far as it has been computed. ``observed``: whether any job's press
    may look at a context's queries.
    """

    def __init__(self, jobs: Sequence[Job], windows: Sequence[int | None]) -> None:
        self._jobs = jobs
        self._windows = windows
        self._left = Counter(context_tokens(job) for job in jobs)
        self._variants: dict[tuple[int, ...], dict[Variant, None]] = {}
        self._open: dict[tuple[int, ...], Context] = {}
        self.stem: Part | None = None
        self.observed = any(job.policy.press is not None for job in jobs)
        for job in jobs:
            self._variants.setdefault(context_tokens(job), {})[_variant(job)] = None

    def __contains__(self, tokens: tuple[int, ...]) -> bool:
        return tokens in self._open

    def open(self, group: Sequence[int]) -> list[Context]:
        """Open the contexts of a group of jobs; those that were not open yet are returned, to be prefilled."""
        fresh = []
        for job in (self._jobs[index] for index in group):
            tokens = context_tokens(job)
            if tokens not in self._open:
                seed = zlib.crc32(repr(tokens).encode())
                context = Context(tokens, job.label, self._variants[tokens], self._windows, seed)
                self._open[tokens] = context
                fresh.append(context)
        return fresh

    def following(self, waiting: Iterable[int]) -> tuple[int, ...]:
        """The first context among waiting jobs that is not open yet; () where there is none."""
        contexts = (context_tokens(self._jobs[index]) for index in waiting)
        return next((tokens for tokens in contexts if tokens not in self._open), ())

    def take(self, job: Job) -> ContextCache:
        """This job's cache; the last job to ask closes its context."""
        tokens = context_tokens(job)
        cache = self._open[tokens].caches[_variant(job)]
        self._left[tokens] -= 1
        if not self._left[tokens]:
            del self._open[tokens]
        return cache


def context_tokens(job: Job) -> tuple[int, ...]:
    """The tokens of a job's prompt that may be evicted."""
    return job.prompt.tokens[: job.prompt.context_length]


def _variant(job: Job) -> Variant:
    return Variant(job.policy, job.prompt.segments, job.prompt.marks)


def by_context(jobs: Sequence[Job]) -> list[int]:
    """Indices of the jobs, those whose contexts are the same or begin alike side by side."""
    return sorted(range(len(jobs)), key=lambda index: context_tokens(jobs[index]))
