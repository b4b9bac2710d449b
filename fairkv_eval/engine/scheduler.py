"""Which jobs run together: those whose contexts begin alike, as many as one pass takes."""

from __future__ import annotations

import zlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from fairkv_eval.engine.cache import ContextCache
from fairkv_eval.engine.context import Context, Variant, Watcher
from fairkv_eval.engine.jobs import Job
from fairkv_eval.engine.prefixes import Part, Tokens, common
from fairkv_eval.storage.room import Entry


@dataclass(frozen=True)
class Member:
    """A job of a group, its index among all jobs, and its context's cache, which the group's prefill fills."""

    index: int
    job: Job
    cache: ContextCache


@dataclass(frozen=True)
class Group:
    """Jobs for one prefill and one pass over their tails.

    contexts: those that no earlier group has prefilled. stem: what some of them begin with, already computed.
    next_stem: what this prefill has in common with the next, to be collected. inspected: whether a press, a
    storage or a watcher looks at the contexts' queries.
    """

    members: Sequence[Member]
    contexts: Sequence[Context] = ()
    stem: Part | None = None
    next_stem: Part | None = None
    inspected: bool = False


class Scheduler:
    """Jobs that wait, in an order in which contexts that are the same or begin alike stand side by side.

    A context is prefilled once for all its variants and dropped with its last job. max_tokens: tokens of one packed
    pass; a longer context goes alone. watcher: a spectator of every context, if there is one. entries: see `Context`.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        windows: Sequence[int | None],
        max_tokens: int,
        watcher: Watcher | None = None,
        entries: Sequence[Entry] = (),
    ) -> None:
        self.windows = windows
        self.max_tokens = max_tokens
        self.watcher = watcher
        self.entries = entries
        policies = [job.policy for job in jobs]
        inspecting = (policy.press is not None or policy.storage.pruned for policy in policies)
        self.inspected = watcher is not None or any(inspecting)
        self._waiting = deque(sorted(enumerate(jobs), key=lambda item: item[1].context_tokens))
        self._open: dict[Tokens, Context] = {}  # contexts that waiting jobs share with earlier ones
        self._stem: Part | None = None
        self._n_waiting = Counter(job.context_tokens for job in jobs)
        self._variants: dict[Tokens, dict[Variant, None]] = {}
        for job in jobs:
            self._variants.setdefault(job.context_tokens, {})[_variant(job)] = None

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._waiting)

    def next(self, places: int) -> Group | None:
        """The next jobs: at least one, and as many as tokens and places allow. None if no job waits, or no place is
        free."""
        members: list[Member] = []
        contexts: list[Context] = []
        before = self._stem.tokens if self._stem else ()
        n_prefill = n_tail = 0
        while self._waiting and len(members) < places:
            index, job = self._waiting[0]
            tokens = job.context_tokens
            # In this order a context shares most with the one before it, or with the stem of an earlier pass.
            if tokens != before and tokens not in self._open:
                n_prefill += len(tokens) - common(before, tokens)
            n_tail += len(job.tail)
            if members and max(n_prefill, n_tail) > self.max_tokens:
                break
            before = tokens
            self._waiting.popleft()
            if tokens not in self._open:
                contexts.append(self._begin(job))
            members.append(Member(index, job, self._take(job)))
        return self._group(members, [context for context in contexts if context.tokens]) if members else None

    def _begin(self, job: Job) -> Context:
        tokens = job.context_tokens
        seed = zlib.crc32(repr(tokens).encode())
        context = Context(tokens, job.label, self._variants[tokens], self.windows, seed, self.watcher, self.entries)
        self._open[tokens] = context
        return context

    def _take(self, job: Job) -> ContextCache:
        """This job's cache; the last job of a context drops it."""
        tokens = job.context_tokens
        cache = self._open[tokens].caches[_variant(job)]
        self._n_waiting[tokens] -= 1
        if not self._n_waiting[tokens]:
            del self._open[tokens]
        return cache

    def _group(self, members: Sequence[Member], contexts: Sequence[Context]) -> Group:
        stem, next_stem = self._stem, None
        if contexts:
            following = self._following()
            shared = common(contexts[-1].tokens, following)
            stays = stem is not None and following[: stem.stop] == stem.tokens and shared <= stem.stop
            if not stays:
                next_stem = self._stem = Part(following[:shared]) if shared else None
        return Group(members, contexts, stem, next_stem, self.inspected)

    def _following(self) -> Tokens:
        """The first context of a waiting job that is still to be prefilled; () if there is none."""
        contexts = (job.context_tokens for _, job in self._waiting)
        return next((tokens for tokens in contexts if tokens not in self._open), ())


def _variant(job: Job) -> Variant:
    asks = job.policy.press is not None and job.policy.press.replays_question
    return Variant(job.policy, job.prompt.segments, job.prompt.marks, job.question if asks else ())
