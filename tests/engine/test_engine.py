"""The engine against the slow reference, and the invariants that do not need the harness."""

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import dense_reference
import pytest
import tiny
import torch
from engine_runs import ask, assert_same, attached, check, positions_run, prompt, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from press_table import OWN, SMALL, UNEVEN, policy

from fairkv_eval.attention import output_projection
from fairkv_eval.engine import batch as batch_module
from fairkv_eval.engine import prefixes
from fairkv_eval.engine.buffer import BLOCK
from fairkv_eval.engine.cache import RowCache
from fairkv_eval.engine.context import Context
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.sampling import Sampling
from fairkv_eval.errors import RequestError, UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.eviction.quotas import n_kept
from fairkv_eval.prompts.tokens import Prompt

KINDS = ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2"]


@pytest.fixture(scope="module")
def llama():
    return attached()


# Every press at one degree, and one of each kind of budget plain and wholly fair.
@pytest.mark.parametrize(
    ("name", "fair"),
    [
        *itertools.product(SMALL, [0.4]),
        *itertools.product(["tova", "pyramidkv small", "adakv small", "kvzip"], [0.0, 1.0]),
    ],
)
def test_generation_equals_the_slow_reference(llama, name: str, fair: float) -> None:
    sizes = [(24, 18, 7), (15, 14, 3), (8, 4, 1), (20, 17, 16), (6, 1, 0), (6, 0, 0)]
    own, want = policy(name, 0.6, fair), Generation(5)
    jobs = [Job(prompt(i // 2, *size), own, want, f"doc {i}") for i, size in enumerate(sizes)]
    check(llama, jobs, rows=3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_every_architecture_equals_the_slow_reference(kind: str, ratio: float) -> None:
    jobs = [Job(prompt(seed, 20 + seed, 14), policy("tova", ratio), Generation(6), "") for seed in range(3)]
    check(attached(kind), jobs)


def test_log_likelihood_is_compress_then_score(llama) -> None:
    for ratio in (0.0, 0.9):
        (result,) = check(llama, [Job(prompt(1), policy("knorm", ratio), LogLikelihood((5, 77, 130)), "")])
    plain, _ = run(llama, [Job(prompt(1), Policy(), LogLikelihood((5, 77, 130)), "")])
    assert abs(plain[0].logprob - result.logprob) > 1e-2


def test_keep_and_segments_reach_the_cache(llama) -> None:
    p = prompt(3, 40, 36, 10)
    (result,), _ = run(llama, [Job(p, policy("streaming_llm", 0.6, keep=("a",), sinks=0), Generation(4), "")])
    assert result.telemetry["segments"]["a"] == 1.0
    assert result.telemetry["segments"]["b"] == pytest.approx((n_kept(36, 0.6) - 10) / 26)
    (fair,), _ = run(llama, [Job(p, policy("knorm", 0.5, 1.0), Generation(4), "")])
    assert fair.telemetry["segments"] == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_bytes_are_measured_from_the_tensors(llama, ratio: float) -> None:
    p = prompt(4, 104, 100, 30)
    (result,), engine = run(llama, [Job(p, policy("tova", ratio), Generation(2), "")])
    pairs_full, pairs = 3 * 2 * 100, 3 * 2 * n_kept(100, ratio)
    assert result.telemetry["kv_bytes_full"] == pairs_full * 2 * 16 * 4
    assert result.telemetry["kv_bytes_kept"] == pairs * 2 * 16 * 4
    assert engine.totals.describe()["achieved_ratio"] == pytest.approx(1 - n_kept(100, ratio) / 100)


def test_sliding_windows_are_kept_whole_and_the_achieved_ratio_says_so() -> None:
    model = attached("gemma2")  # layers 0 and 2 slide, layer 1 does not
    _, engine = run(model, [Job(prompt(5, 24, 20), policy("knorm", 0.5), Generation(2), "")])
    assert engine.totals.kv_pairs_full == 2 * (9 + 20 + 9)
    assert engine.totals.kv_pairs_kept == 2 * (9 + 10 + 9)


@pytest.mark.parametrize("name", UNEVEN)
def test_uneven_budgets_with_whitelist_budget_and_score(llama, name: str) -> None:
    long, short = prompt(10, 26, 22, 5), prompt(11, 9, 7, 3)
    wanted: list[tuple[Prompt, Policy, Any]] = [
        (long, policy(name, 0.5, 0.4, keep=("a",)), Generation(6)),
        (long, policy(name, 0.7, 1.0), LogLikelihood((5, 77, 130))),
        (long, policy(name, 0.0, budget=5), Generation(6)),
        (short, policy(name, 0.0, budget=5), LogLikelihood((9, 200))),
        (short, policy(name, 0.0, budget=100), Generation(6)),
    ]
    *_, whole = check(llama, [Job(p, own, want, "") for p, own, want in wanted], rows=3)
    assert whole.telemetry["keep_rate"] == 1


@pytest.mark.parametrize("name", UNEVEN)
def test_bytes_of_uneven_heads_are_those_of_their_own_pairs(llama, monkeypatch, name: str) -> None:
    """Context and running row hold what each head keeps, not what the longest does."""
    held = []

    class Spy(RowCache):
        def begin_step(self) -> None:
            held.append(self.nbytes_held)
            super().begin_step()

    monkeypatch.setattr(batch_module, "RowCache", Spy)
    p, own = prompt(12, 64, 60, 20), policy(name, 0.5, 1.0)
    (result,), _ = run(llama, [Job(p, own, Generation(3), "")])
    kept = dense_reference.survivors(llama[0], p.tokens[:60], p.segments, own, ask)
    lengths = [len(head) for layer in kept for head in layer]
    entry = 2 * 16 * 4
    equal = name in ("adakv tova", "adakv keydiff")  # one ranking for all heads, and a safeguard of all they could give
    assert sum(lengths) == 3 * 2 * 30 and (len(set(lengths)) == 1) == equal
    assert result.telemetry["kv_bytes_kept"] == sum(lengths) * entry
    assert held == [sum(m + 4 + step for m in lengths) * entry for step in range(2)]
    for segment, start, stop in p.segments:
        inside = sum(start <= j < stop for layer in kept for head in layer for j in head)
        assert result.telemetry["segments"][segment] == pytest.approx(inside / (6 * (stop - start)))


OWN_AMOUNT = [name for name in SMALL if name.split()[0] in OWN]


@pytest.mark.parametrize("name", OWN_AMOUNT)
@pytest.mark.parametrize("fair", [0.0, 0.4, 1.0])
def test_a_press_that_says_how_much_is_kept(llama, name: str, fair: float) -> None:
    """With a whitelist, as tail and as score; results report what was kept, the same at every degree of fairness."""
    long, short = prompt(10, 26, 22, 4), prompt(11, 9, 7, 2)
    jobs = [
        Job(long, policy(name, fair=fair, keep=("a",)), Generation(6), ""),
        Job(long, policy(name, fair=fair), LogLikelihood((5, 77, 130)), ""),
        Job(short, policy(name, fair=fair), Generation(6), ""),
    ]
    results = check(llama, jobs, rows=3)
    for job, result in zip(jobs, results, strict=True):
        p, plain = job.prompt, replace(job.policy, fair=0.0)
        kept = dense_reference.survivors(llama[0], p.tokens[: p.context_length], p.segments, plain, ask)
        pairs = sum(len(head) for layer in kept for head in layer)
        assert result.telemetry["keep_rate"] == pytest.approx(pairs / (6 * p.context_length))
        assert result.telemetry["kv_bytes_kept"] == pairs * 2 * 16 * 4
    assert 0 < results[1].telemetry["keep_rate"] < 1


@pytest.mark.parametrize("kind", ["llama", "gemma2", "phi3"])
@pytest.mark.parametrize(
    "name", ["zigzagkv small", "kvcompose", "threshold h2o", "simlayerkv small", "blockwise small"]
)
def test_on_other_architectures(kind: str, name: str) -> None:
    jobs = [Job(prompt(seed, 20 + seed, 14), policy(name, 0.5, 0.5), Generation(6), "") for seed in range(3)]
    check(attached(kind), jobs)


def test_ratios_for_another_number_of_layers_name_both(llama) -> None:
    own = policy("layer_ratios knorm", by_layer="0.5+0.2")
    with pytest.raises(UsageError, match="doc 3: layer_ratios has 2 ratios, and the model 3 layers that evict"):
        run(llama, [Job(prompt(3), own, Generation(2), "doc 3")])


@pytest.mark.parametrize("names", [["zigzagkv small"], ["kvzip"], ["zigzagkv small", "kvzip", "tova"]])
def test_the_full_cache_is_held_until_the_last_layer_and_no_longer(llama, monkeypatch, names: list[str]) -> None:
    held = []
    store, close = Context.store, Context.close_replays

    def stored(self, layer, window) -> None:
        store(self, layer, window)
        held.append([len(self.full.layers), len(self.held_back), layer.index])

    def closed(self) -> None:
        close(self)
        held.append([len(self.full.layers), len(self.held_back), -1])

    monkeypatch.setattr(Context, "store", stored)
    monkeypatch.setattr(Context, "close_replays", closed)
    check(llama, [Job(prompt(12), policy(name, 0.5, 0.5), Generation(4), "") for name in names])
    assert held == [[1, 1, 0], [2, 2, 1], [3, 3, 2], [0, 0, -1]]


def test_a_head_that_keeps_nothing_takes_no_room(llama, monkeypatch) -> None:
    """One head of two gets the whole budget of each layer; the other sees the tail alone."""
    caches = []

    def spy(slots: int) -> RowCache:
        caches.append(RowCache(slots))
        return caches[-1]

    monkeypatch.setattr(batch_module, "RowCache", spy)

    def loud(layer, span):
        first = torch.arange(span.start, span.stop, dtype=torch.float32)
        return torch.stack([first, first - 1000])

    press = load_press("adakv")
    assert press is not None
    press = press.around(Press("loud", loud))
    uneven = Policy(press, press.configure({"safeguard": 0.0}), ratio=0.5)
    jobs = [
        Job(prompt(13, 804, 800, 0), uneven, Generation(3), ""),
        Job(prompt(14), policy("knorm"), Generation(5), ""),
    ]
    results, _ = run(llama, jobs[:1])
    assert results[0].telemetry["kv_bytes_kept"] == 3 * 800 * 2 * 16 * 4
    for long, short in caches[0].layers:
        assert long.keys.shape[2] > 800 > 2 * BLOCK >= short.keys.shape[2]
    together, _ = run(llama, jobs)
    assert together[0].tokens == results[0].tokens
    assert together[1].tokens == run(llama, jobs[1:])[0][0].tokens
    check(llama, [Job(prompt(13, 40, 36, 9), uneven, Generation(5), ""), jobs[1]])


# Of every kind of length: uniform, by layer, by head of a layer, by head of the model, cut while decoding, and whole.
MIXED: list[tuple[str, dict]] = [
    *(
        ("tova", {}),
        ("none", {}),
        ("h2o", {}),
        ("snapkv small", {}),
        ("adakv small", {}),
        ("kvzip", {}),
        ("pyramidkv small", {}),
    ),
    ("adakv knorm", {"safeguard": 0.2, "ratio": 0.0, "budget": 6}),
    ("kvzip", {}),
    ("tova", {"ratio": 0.0, "budget": 3}),
    ("h2o", {"decode_budget": 9, "decode_every": 2, "fair": 0.0}),
    ("streaming_llm", {"positions": "contiguous"}),
    ("keydiff", {"decode_budget": 7, "decode_every": 3, "fair": 0.0, "positions": "contiguous"}),
    *((name, {}) for name in ("zigzagkv small", "kvcompose", "threshold knorm", "simlayerkv small")),
    *((name, {}) for name in ("layer_ratios knorm", "blockwise keydiff")),
]


def mixed_job(i: int, steps: int) -> Job:
    name, given = MIXED[i]
    own = Policy() if name == "none" else policy(name, **{"ratio": 0.5, "fair": float(i % 2), **given})
    want = LogLikelihood((3, i)) if i in (3, 8) else Generation(steps)
    return Job(prompt(i // 4, 20 + 3 * (i // 2), 16 - i // 2 % 2 * 3), own, want, f"doc {i}")


@pytest.fixture(scope="module")
def alone(llama):
    return cache(lambda i, steps: run(llama, [mixed_job(i, steps)], rows=1)[0][0])


@given(
    order=st.permutations(range(len(MIXED))),
    rows=st.integers(1, 7),
    packed=st.sampled_from([8, 30, 4096]),
    steps=st.lists(st.integers(1, 9), min_size=len(MIXED), max_size=len(MIXED)),
    shortest=st.sampled_from([2, 9, 32]),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_result_depends_on_nothing_beside_it(llama, alone, order, rows, packed, steps, shortest) -> None:
    """Order, batch, packing, policies, and how much of the contexts that begin alike is shared."""
    jobs = [mixed_job(i, steps[i]) for i in order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "SHORTEST", shortest)
        together, engine = run(llama, jobs, rows=rows, max_prefill_tokens=packed)
    assert (engine.totals.shared_tokens > 0) == (shortest < 32)
    for i, result in zip(order, together, strict=True):
        assert_same(result, alone(i, steps[i]))


@pytest.mark.parametrize("name", [name for name in SMALL if name.split()[0] not in OWN])
def test_at_ratio_zero_every_press_is_the_plain_model(llama, name: str) -> None:
    plain, _ = run(llama, [Job(prompt(15), Policy(), Generation(6), "")])
    (whole,), _ = run(llama, [Job(prompt(15), policy(name, 0.0, 0.5), Generation(6), "")])
    assert (whole.tokens, whole.telemetry["keep_rate"]) == (plain[0].tokens, 1.0)


def test_a_model_without_a_known_output_projection_is_refused_for_criticalkv_alone(llama, monkeypatch) -> None:
    monkeypatch.setattr(output_projection, "NAMES", ("projection",))
    run(llama, [Job(prompt(6), policy("snapkv"), Generation(2), "")])
    with pytest.raises(
        UsageError, match=r"doc 3.*output projection of LlamaAttention is not known; it has no projection"
    ):
        run(llama, [Job(prompt(6), policy("criticalkv"), Generation(2), "doc 3")])


def test_jobs_on_one_context_prefill_it_once(llama) -> None:
    p = prompt(6)
    jobs = [Job(p, policy("tova", r), Generation(2), "") for r in (0.2, 0.5, 0.8)]
    jobs += [Job(p, policy("tova", 0.5), LogLikelihood((i,)), "") for i in range(5)]
    _, engine = run(llama, jobs, rows=2)
    assert engine.totals.prefill_tokens == p.context_length


def test_generation_stops_at_eos_at_a_stop_string_and_at_its_length(llama) -> None:
    free = run(llama, [Job(prompt(7), Policy(), Generation(12), "")])[0][0].tokens
    assert len(free) == 12
    ended, _ = run(llama, [Job(prompt(7), Policy(), Generation(12), "")], eos=[free[4]])
    assert ended[0].tokens == free[: free.index(free[4]) + 1]
    fast = tiny.tokenizer()
    stop = fast.decode(free[5:8])
    text = [fast.decode(free[: i + 1]) for i in range(12)]
    stopped, _ = run(llama, [Job(prompt(7), Policy(), Generation(12, (stop,)), "")], decode=fast.decode)
    assert len(stopped[0].tokens) == 1 + next(i for i, t in enumerate(text) if stop in t)


def test_sampled_tokens_do_not_depend_on_the_batch(llama) -> None:
    jobs = [
        Job(prompt(i % 3), policy("knorm", 0.5), Generation(8, sampling=Sampling(True, temperature=1.5, seed=i)), "")
        for i in range(6)
    ]
    alone = [run(llama, [job], rows=1)[0][0].tokens for job in jobs]
    together, _ = run(llama, jobs[::-1], rows=4)
    assert [r.tokens for r in together[::-1]] == alone
    assert alone[0] != alone[3], "the same prompt under another seed"


def test_positions_continue_at_the_original_length(llama, monkeypatch) -> None:
    seen = positions_run(monkeypatch)
    run(llama, [Job(prompt(8, 24, 18), policy("tova", 0.9), Generation(3), "")])
    assert seen == [list(range(18)), list(range(18, 24)), [24], [25]]


def test_a_press_that_fails_names_the_document(llama) -> None:
    def broken(layer, span):
        raise ZeroDivisionError("oh")

    bad = Policy(Press("broken", broken), ratio=0.5)
    with pytest.raises(RequestError, match="task t, doc 7: evicting layer 0 failed: oh"):
        run(llama, [Job(prompt(9), bad, Generation(2), "task t, doc 7")])


def test_a_whitelist_above_the_budget_names_the_document_and_both_numbers(llama) -> None:
    with pytest.raises(UsageError, match=r"doc 3: keep holds 7 tokens, the budget of this context of 18 tokens is 1"):
        run(llama, [Job(prompt(9), policy("tova", 0.9, keep=("a",)), Generation(2), "doc 3")])
