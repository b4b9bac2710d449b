"""Whether a policy that evicts has something to evict: layers that keep all pairs, contexts of two tokens or more."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from fairkv_eval.engine.jobs import Job
from fairkv_eval.engine.totals import Totals
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy

log = logging.getLogger(__name__)


class ContextCheck:
    """Refuses jobs while no context of a run has had anything to evict. note: called with a note and a count."""

    def __init__(self, note: Callable[[str, int], None]) -> None:
        self.note = note
        self.met_evictable = False

    def check(self, jobs: Sequence[Job], whole_run: bool) -> None:
        """Check the jobs of one type of request, before they run.

        whole_run: with those before them they are all there are, and no other process has some. Raises UsageError as
        `check_evictable` does.
        """
        empty = sum(job.policy.evicts and job.prompt.context_length <= 1 for job in jobs)
        if empty:
            self.note("contexts of at most one token, which leave nothing to evict", empty)
        if whole_run and not self.met_evictable:
            check_evictable(jobs)
        self.met_evictable |= len(jobs) > empty


def check_evictable(jobs: Sequence[Job]) -> None:
    """Raise UsageError if policies evict from contexts, and none of these has anything to evict."""
    evicting = [job for job in jobs if job.policy.evicts and job.policy.decode_budget is None]
    if not evicting or any(job.prompt.context_length > 1 for job in evicting):
        return
    longest = max(len(job.prompt.tokens) for job in evicting)
    hint = "scope=prompt makes the whole prompt the context" if longest > 2 else "such short prompts need no press"
    presses = ", ".join(sorted({job.policy.press_name for job in evicting}))
    raise UsageError(
        f"press={presses} has nothing to evict: no context has more than one token, and the longest prompt has "
        f"{longest}; {hint}"
    )


def check_layers(windows: Sequence[int | None], policy: Policy) -> None:
    """UsageError if the policy would evict, and every layer keeps a sliding window, which is not compressed; or if it
    has budgets for another number of layers."""
    if None not in windows and (policy.evicts or policy.decode_budget is not None):
        raise UsageError(
            f"{policy.label} evicts nothing in this model: all of its {len(windows)} layers attend within a sliding "
            "window, which keeps its pairs"
        )
    policy.division.layers(1, 1, windows.count(None), 0)  # refuses a list of budgets for another number of layers


def warn_if_nothing_was_evicted(policy: Policy, totals: Totals) -> None:
    """Log a warning if a run under an evicting policy kept every pair: of rolling windows alone, or a large budget."""
    if policy.evicts and totals.tail_tokens and totals.kv_pairs_kept == totals.kv_pairs_full:
        log.warning("press=%s evicted nothing from any context of this run", policy.press_name)
