"""What kvpress keeps of one context in two tiny models, against what our presses keep: the same positions, layer by
layer and head by head, and where a definition differs on purpose, how.

`golden/make_kvpress_reference.py` made the numbers, by running kvpress on the same weights and tokens.
"""

from __future__ import annotations

import pytest
import torch
from kvpress_reference import KvpressReference, marked
from numpy_weights import KV_HEADS, LAYERS

from fairkv_eval.eviction.layer import Span
from fairkv_eval.eviction.quotas import choose

REFERENCE = KvpressReference("reference")
CASES, N = REFERENCE.cases, REFERENCE.n
RATIOS, INEXACT_RATIO = [0.25, 0.5, 0.75], 0.8
policy, run, theirs, ours = REFERENCE.policy, REFERENCE.run, REFERENCE.theirs, REFERENCE.ours

# Ties, layer budgets and whole runs are decided otherwise here.
OTHERWISE = [name for name in CASES if name.startswith(("lagkv-32", "lagkv-128", "pyramidkv", "chunkkv"))]
SAME = [name for name in CASES if name not in OTHERWISE]

each_model = pytest.mark.parametrize("kind", REFERENCE.models)
each_ratio = pytest.mark.parametrize("ratio", RATIOS)


def test_the_reference_is_whole_and_its_models_are_ours() -> None:
    REFERENCE.check_whole()
    assert all({*RATIOS} <= {*case["ratios"]} for case in CASES.values())
    presses = {entry["press"] for entry in CASES.values()}
    assert presses == {
        *("streaming_llm", "snapkv", "tova", "knorm", "h2o", "keydiff"),
        *("pyramidkv", "lagkv", "expected_attention", "adakv", "chunkkv"),
    }
    assert REFERENCE.about["versions"]["kvpress"] == "0.5.5"


@each_model
@each_ratio
@pytest.mark.parametrize("case", SAME)
def test_the_same_positions(kind: str, case: str, ratio: float) -> None:
    assert torch.equal(ours(kind, case, ratio), theirs(kind, case, ratio))


@each_model
@pytest.mark.parametrize("case", ["knorm", "streaming_llm"])
def test_binary_fractions_do_not_cost_a_pair(kind: str, case: str) -> None:
    """300·(1−0.8) is 60 here, but 59.999… rounded down in kvpress: theirs, and one pair more."""
    mine, other = ours(kind, case, INEXACT_RATIO), theirs(kind, case, INEXACT_RATIO)
    assert (mine.sum(-1) == 60).all() and (other.sum(-1) == 59).all()
    assert not (other & ~mine).any()


@each_model
@each_ratio
@pytest.mark.parametrize("lag", [32, 128])
def test_lagkv_apart_from_ties(kind: str, lag: int, ratio: float) -> None:
    """A LagKV score is a rank in a partition, so one position of every partition has it, and what is protected (sinks,
    last partition, remainder) has one score too. kvpress leaves it to top-k which of them to keep; here the latest are.
    Everything above and below the score at which the budget ends is as in kvpress, and as many of the tied are kept."""
    case = f"lagkv-{lag}"
    mine, other = ours(kind, case, ratio), theirs(kind, case, ratio)
    budget = policy(case, ratio).n_kept(N)
    for layer, a, b in zip(run(kind).layers, mine, other, strict=True):
        score = policy(case, ratio).scorer(layer)(Span(0, N, budget=budget))
        edge = score.topk(budget).values[:, -1:]
        tied = score == edge
        assert torch.equal(a & ~tied, b & ~tied)
        assert torch.equal((a & tied).sum(-1), (b & tied).sum(-1))
        for row, equals in zip(a, tied, strict=True):
            among = row[equals].int()
            assert torch.equal(among, among.sort().values)


# Budgets of the four layers. kvpress lets no layer go above n − window, moving the last one's up by as much, and takes
# an even division where a layer would fall below the window; here n and the window are the bounds and what they take or
# leave is shared by the other layers. Within all bounds both have the same.
BUDGETS = {
    ("pyramidkv-3", 0.25): ([284, 245, 205, 166], [300, 300, 200, 100]),
    ("pyramidkv-3", 0.5): ([250, 183, 117, 50], [250, 183, 117, 50]),
    ("pyramidkv-3", 0.75): ([125, 92, 58, 25], [125, 92, 58, 25]),
    ("pyramidkv-20", 0.25): ([284, 245, 205, 166], [300, 300, 221, 79]),
    ("pyramidkv-20", 0.5): ([284, 195, 105, 16], [289, 195, 100, 16]),
    ("pyramidkv-20", 0.75): ([75, 75, 75, 75], [142, 95, 47, 16]),
}


@each_model
@pytest.mark.parametrize("case, ratio", BUDGETS)
def test_pyramidkv_apart_from_budgets(kind: str, case: str, ratio: float) -> None:
    mine, other = ours(kind, case, ratio), theirs(kind, case, ratio)
    budgets, own = BUDGETS[case, ratio]
    assert other.sum(-1).tolist() == [[budget] * KV_HEADS for budget in budgets]
    assert mine.sum(-1).tolist() == [[budget] * KV_HEADS for budget in own]
    assert sum(own) == LAYERS * policy(case, ratio).n_kept(N)
    for layer, budget, positions in zip(run(kind).layers, budgets, other, strict=True):
        at_theirs = choose(policy(case, ratio).scorer(layer), [Span(0, N)], budget, 0, None)
        assert torch.equal(marked([at_theirs], N), positions)


@each_model
@each_ratio
@pytest.mark.parametrize("case", [name for name in CASES if name.startswith("chunkkv")])
def test_chunkkv_apart_from_the_run_that_is_cut(kind: str, case: str, ratio: float) -> None:
    """kvpress keeps the part 1−ratio of the runs, rounded down, so fewer pairs than the ratio says wherever that leaves
    a part of a run over or counts a short last run as a whole one. Here the next run fills the budget, with the pairs
    of it that the base scores highest."""
    base, chunk = CASES[case]["base"], CASES[case]["parameters"]["chunk"]
    budget = policy(case, ratio).n_kept(N)
    runs = torch.arange(N) // chunk
    for layer, a, b in zip(run(kind).layers, ours(kind, case, ratio), theirs(kind, case, ratio), strict=True):
        whole = runs[b[0]].unique()
        assert len(whole) == int((runs.max() + 1) * (1 - ratio))
        assert torch.equal(b, torch.isin(runs, whole).expand(KV_HEADS, -1))
        count = int(b[0].sum())
        at_theirs = choose(policy(case, ratio).scorer(layer), [Span(0, N, budget=count)], count, 0, None)
        assert torch.equal(marked([at_theirs], N), b)

        more = a & ~b
        assert a.sum(-1).tolist() == [budget] * KV_HEADS and not (b & ~a).any()
        (cut,) = runs[more[0]].unique()
        assert torch.equal(more[0], more[1])
        worth = policy(base, ratio).scorer(layer)(Span(0, N)).mean(0)
        assert worth[more[0]].min() > worth[~a[0] & (runs == cut)].max()
