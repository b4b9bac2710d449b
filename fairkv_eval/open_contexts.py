"""Which jobs share a context, and the contexts that some of them still wait for."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence

from fairkv_eval.cache import ContextCache
from fairkv_eval.context import Context, Variant
from fairkv_eval.jobs import Job


class OpenContexts:
    """Contexts that jobs still wait for, each prefilled once for all its variants and dropped with its last job."""

    def __init__(self, jobs: Sequence[Job], windows: Sequence[int | None]) -> None:
        self._jobs = jobs
        self._windows = windows
        self._left = Counter(context_tokens(job) for job in jobs)
        self._variants: dict[tuple[int, ...], dict[Variant, None]] = {}
        self._open: dict[tuple[int, ...], Context] = {}
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
    return job.prompt.tokens[: job.prompt.context]


def _variant(job: Job) -> Variant:
    return Variant(job.policy, job.prompt.segments, job.prompt.marks)


def by_context(jobs: Sequence[Job]) -> list[int]:
    """Indices of the jobs, those that share a context side by side, in order of first appearance."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, job in enumerate(jobs):
        groups.setdefault(context_tokens(job), []).append(index)
    return [index for group in groups.values() for index in group]
