"""The tree over contexts that begin alike, and the prefill that runs each of its parts once."""

from __future__ import annotations

import pytest
import tiny
import torch
from engine_runs import assert_same
from hypothesis import given
from hypothesis import strategies as st
from press_table import policy

from fairkv_eval.engine import prefixes
from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.prefixes import Part, common, tree
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.tokens import Prompt


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "SHORTEST", 3)


@st.composite
def forests(draw: st.DrawFn) -> tuple[list[tuple[int, ...]], Part | None]:
    token = st.integers(0, 1)
    begins = draw(st.lists(st.lists(token, max_size=9), min_size=1, max_size=3))
    drawn = draw(st.lists(st.tuples(st.sampled_from(begins), st.lists(token, min_size=1, max_size=7)), min_size=1))
    contexts = list(dict.fromkeys((*begin, *end) for begin, end in drawn))
    if not draw(st.booleans()):
        return contexts, None
    tokens = draw(st.sampled_from(contexts))
    return contexts, Part(tokens[: draw(st.integers(1, len(tokens)))])


def path(part: Part | None) -> tuple[int, ...]:
    return () if part is None else (*path(part.parent), *part.tokens)


@given(forests())
def test_paths_are_the_contexts_and_no_long_beginning_is_run_twice(forest: tuple) -> None:
    contexts, stem = forest
    parts, ends = tree(contexts, stem)
    assert [path(end) for end in ends] == contexts
    assert all(part.start == len(path(part.parent)) for part in parts)
    computed = [stem, *parts]
    assert all(part.parent is None or part.parent in computed[:at] for at, part in enumerate(computed) if part)
    siblings = [(a, b) for a in parts for b in parts if a is not b and a.parent is b.parent]
    assert all(common(a.tokens, b.tokens) == 0 for a, b in siblings)
    if stem:
        begun = [tokens for tokens in contexts if tokens[: stem.stop] == stem.tokens]
        roots = [next(p for p in (end, *parents(end)) if p.parent is None) for end in ends]
        assert [tokens for tokens, root in zip(contexts, roots, strict=True) if root is stem] == begun


def parents(part: Part) -> list[Part]:
    return [] if part.parent is None else [part.parent, *parents(part.parent)]


def test_a_shared_beginning_has_a_part_of_its_own() -> None:
    few_shot = (1, 2, 3, 4)
    parts, ends = tree([(*few_shot, 7), (*few_shot, 8, 8), (5,)])
    assert [(part.tokens, part.start) for part in parts] == [(few_shot, 0), ((7,), 4), ((8, 8), 4), ((5,), 0)]
    assert ends == [parts[1], parts[2], parts[3]] and parts[1].parent is parts[0]


def test_too_short_a_beginning_is_not_shared() -> None:
    assert common((1, 2, 9), (1, 2, 8)) == 0 and common((1, 2, 3, 9), (1, 2, 3, 8)) == 3
    assert [part.tokens for part in tree([(1, 2, 9), (1, 2, 8)])[0]] == [(1, 2, 8), (1, 2, 9)]


# --- through the engine

KINDS = {"llama": {}, "gemma2": {"sliding_window": 9, "attn_logit_softcapping": 5.0}}


def jobs_that_begin_alike() -> list[Job]:
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> list[int]:
        return torch.randint(0, 256, (n,), generator=generator).tolist()

    block, deeper = draw(20), draw(9)
    begins = [block, block, [*block, *deeper], [*block, *deeper], [*block, *deeper], [], block[:2], block]
    names = ["snapkv small", "h2o", "tova", "none", "expected_attention small", "lagkv small", "adakv small", "none"]
    jobs = []
    for i, (begin, name) in enumerate(zip(begins, names, strict=True)):
        context = [*begin, *draw(0 if i == 7 else 4 + 3 * i)]
        applied = Policy() if name == "none" else policy(name, 0.5, float(i % 2))
        half = len(context) // 2
        segments = (Segment("a", 0, half), Segment("b", half, len(context)))
        want = LogLikelihood((3, i)) if i == 4 else Generation(6)
        jobs.append(Job(Prompt((*context, *draw(3)), len(context), segments), applied, want, f"doc {i}"))
    return jobs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed", [4, 30, 60, 4096])
def test_sharing_changes_nothing(kind: str, packed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model(kind, **KINDS[kind])
    windows = attach_checked(model)
    jobs = jobs_that_begin_alike()
    shared = Engine(model, windows, 3, packed)
    results = dict(shared.run(jobs))
    monkeypatch.setattr(prefixes, "SHORTEST", 10**6)
    alone = Engine(model, windows, 1, 1)
    expected = dict(alone.run(jobs))
    for i in range(len(jobs)):
        assert_same(results[i], expected[i])
    assert alone.totals.shared_tokens == 0
    assert shared.totals.prefill_tokens + shared.totals.shared_tokens == alone.totals.prefill_tokens


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_shared_beginning_is_prefilled_once_whatever_the_groups(rows: int) -> None:
    model = tiny.model()
    block = tuple(range(50))
    contexts = [(*block, 100 + i, 200 - i, i, i) for i in range(12)]
    jobs = [
        Job(Prompt((*c, 7), len(c)), Policy(), LogLikelihood((i, 2)), "")
        for i, c in enumerate(contexts)
        for _ in range(2)
    ]
    engine = Engine(model, attach_checked(model), rows, 20)
    assert len(dict(engine.run(jobs))) == 24
    assert engine.totals.prefill_tokens == 50 + 12 * 4
    assert engine.totals.shared_tokens == 11 * 50


@pytest.mark.parametrize("rng", range(3))
def test_the_order_of_jobs_does_not_matter(rng: int) -> None:
    model = tiny.model()
    windows, jobs = attach_checked(model), jobs_that_begin_alike()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(rng)).tolist()
    found = dict(Engine(model, windows, 3, 40).run([jobs[i] for i in order]))
    expected = dict(Engine(model, windows, 1, 4096).run(jobs))
    assert [found[at].tokens for at in range(8)] == [expected[i].tokens for i in order]
