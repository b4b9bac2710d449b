"""Which jobs run together: every job once, contexts prefilled once, stems handed from one group to the next."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from press_table import policy

from fairkv_eval.engine import prefixes
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.scheduler import Group, Scheduler
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.tokens import Prompt

FULL = Policy()


def job(context: tuple[int, ...], tail: int = 1, own: Policy = FULL) -> Job:
    return Job(Prompt((*context, *range(tail)), len(context)), own, Generation(2), f"doc {context}")


def groups(jobs: list[Job], places: int = 64, max_tokens: int = 1000) -> list[Group]:
    """All groups of these jobs, places being free again for each."""
    scheduler = Scheduler(jobs, [None], max_tokens)
    found = list(iter(lambda: scheduler.next(places), None))
    assert not scheduler
    return found


def indices(found: list[Group]) -> list[list[int]]:
    return [[member.index for member in group.members] for group in found]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 2), max_size=4), st.integers(1, 5)), max_size=12),
    st.integers(1, 5),
    st.integers(1, 9),
)
@settings(max_examples=60)
def test_every_job_comes_once_and_every_context_is_prefilled_once(jobs, places: int, max_tokens: int) -> None:
    queued = [job(tuple(context), tail) for context, tail in jobs]
    all_groups = groups(queued, places, max_tokens)
    assert sorted(index for group in indices(all_groups) for index in group) == list(range(len(queued)))
    prefilled = [context.tokens for group in all_groups for context in group.contexts]
    assert sorted(prefilled) == sorted({one.context_tokens for one in queued} - {()})
    for group in all_groups:
        assert 1 <= len(group.members) <= places
        tails = sum(len(member.job.tail) for member in group.members)
        tokens = sum(len(context.tokens) for context in group.contexts)
        assert len(group.members) == 1 or max(tails, tokens) <= max_tokens


def test_without_a_place_or_a_job_there_is_no_group() -> None:
    assert Scheduler([job((1,))], [None], 9).next(0) is None
    assert Scheduler([], [None], 9).next(1) is None


def test_a_long_context_goes_alone() -> None:
    assert indices(groups([job((1,) * 3), job((2,) * 50), job((3,) * 3)], max_tokens=10)) == [[0], [1], [2]]


def test_policies_share_a_context_across_groups() -> None:
    """A later group does not prefill it again, and finds the cache of its own policy."""
    half = policy("knorm", 0.5)
    first, second = groups([job((1, 2)), job((1, 2), own=half), job((1, 2))], places=2)
    (context,) = first.contexts
    assert second.contexts == [] and len(context.caches) == 2
    caches = [member.cache for group in (first, second) for member in group.members]
    assert caches[0] is caches[2] is not caches[1] and set(map(id, caches)) == set(map(id, context.caches.values()))


def test_a_continuation_counts_in_the_tail() -> None:
    own = Job(Prompt((1, 2, 3), 2), FULL, LogLikelihood((7, 8, 9)), "")
    assert own.tail == (3, 7, 8) and own.n_predictions == 3
    assert indices(groups([own, own, own], max_tokens=6)) == [[0, 1], [2]]


def test_a_stem_is_what_the_next_group_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays as long as contexts begin with all of it and share no more with each other."""
    monkeypatch.setattr(prefixes, "SHORTEST", 3)
    shared = (5, 5, 5)
    found = groups([job((*shared, i)) for i in range(3)] + [job((9, 9, 9, i)) for i in range(2)], places=1)
    collected = [group.next_stem.tokens if group.next_stem else () for group in found]
    assert collected == [shared, (), (), (9, 9, 9), ()]
    assert [group.stem.tokens if group.stem else () for group in found] == [(), shared, shared, (), (9, 9, 9)]


def test_a_longer_stem_takes_the_place_of_a_shorter_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "SHORTEST", 3)
    found = groups([job((1, 1, 1, 0)), job((1, 1, 1, 2, 2, 0)), job((1, 1, 1, 2, 2, 1))], places=1)
    assert [group.next_stem.tokens if group.next_stem else () for group in found] == [(1, 1, 1), (1, 1, 1, 2, 2), ()]


def test_contexts_are_inspected_if_there_is_a_press() -> None:
    (full,), (half,) = groups([job((1,))]), groups([job((1,)), job((2,), own=policy("knorm", 0.5))])
    assert not full.inspected and half.inspected
