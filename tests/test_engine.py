"""The engine against the slow reference, and the invariants that do not need the harness."""

import zlib

import pytest
import reference
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairkv_eval.check import attach_checked
from fairkv_eval.engine import Engine
from fairkv_eval.errors import RequestError, UsageError
from fairkv_eval.evict import n_kept
from fairkv_eval.jobs import Generate, Job, Score
from fairkv_eval.policy import Policy
from fairkv_eval.press import Press, load_press
from fairkv_eval.prompt import Prompt, Segment
from fairkv_eval.sampling import Sampling

PRESSES = ["streaming_llm", "snapkv", "h2o", "tova", "knorm", "random"]
KINDS = ["llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2"]
SIZES = {"mistral": {"sliding_window": 9}, "gemma2": {"sliding_window": 9, "attn_logit_softcapping": 5.0}}


def attached(kind: str = "llama"):
    model = tiny.model(kind, **SIZES.get(kind, {}))
    return model, attach_checked(model)


@pytest.fixture(scope="module")
def llama():
    return attached()


def policy(name: str = "tova", ratio: float = 0.5, fair: float = 0.0, keep: tuple = (), **given) -> Policy:
    press = load_press(name)
    return Policy(press, press.configure(given) if press else (), ratio, fair, keep)


def prompt(seed: int, n: int = 24, context: int = 18, cut: int = 7) -> Prompt:
    tokens = torch.randint(0, 256, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    segments = (Segment("a", 0, cut), Segment("b", cut, context)) if 0 < cut < context else ()
    return Prompt(tuple(tokens), context, segments)


def run(model_and_layers, jobs: list[Job], rows: int = 4, **kwargs):
    engine = Engine(*model_and_layers, rows=rows, **kwargs)
    results = dict(engine.run(jobs))
    assert sorted(results) == list(range(len(jobs)))
    return [results[i] for i in range(len(jobs))], engine


def expected(model, job: Job) -> list[int]:
    p = job.prompt
    seed = zlib.crc32(repr(p.tokens[: p.context]).encode())
    visible = reference.survivors(model, p.tokens[: p.context], p.segments, job.policy, seed)
    return reference.greedy(model, p.tokens, p.context, visible, job.want.max_tokens)


@pytest.mark.parametrize("fair", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", PRESSES)
def test_generation_equals_the_slow_reference(llama, name: str, fair: float) -> None:
    given = {"window": 4} if name == "snapkv" else {}
    jobs = [
        Job(prompt(seed, n, context, cut), policy(name, 0.6, fair, **given), Generate(5), f"doc {seed}")
        for seed, (n, context, cut) in enumerate([(24, 18, 7), (15, 14, 3), (9, 2, 1), (30, 17, 16), (6, 0, 0)])
    ]
    results, _ = run(llama, jobs, rows=3)
    for job, result in zip(jobs, results, strict=True):
        assert list(result.tokens) == expected(llama[0], job)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_every_architecture_equals_the_slow_reference(kind: str, ratio: float) -> None:
    model = attached(kind)
    jobs = [Job(prompt(seed, 20 + seed, 14), policy("tova", ratio), Generate(6), "") for seed in range(3)]
    results, _ = run(model, jobs)
    for job, result in zip(jobs, results, strict=True):
        assert list(result.tokens) == expected(model[0], job)


def test_log_likelihood_is_compress_then_score(llama) -> None:
    continuation = (5, 77, 130)
    for ratio in (0.0, 0.9):
        p = prompt(1)
        job = Job(p, policy("knorm", ratio), Score(continuation), "")
        (result,), _ = run(llama, [job])
        visible = reference.survivors(llama[0], p.tokens[: p.context], p.segments, job.policy)
        logits = reference.logits_of(llama[0], [*p.tokens, *continuation], reference.Dense(p.context, visible))
        want = logits.log_softmax(-1)[-4:-1].gather(1, torch.tensor(continuation)[:, None]).sum()
        assert result.logprob == pytest.approx(float(want), abs=1e-4)
        assert result.greedy == (logits[-4:-1].argmax(-1).tolist() == list(continuation))
    plain, _ = run(llama, [Job(prompt(1), Policy(), Score(continuation), "")])
    assert abs(plain[0].logprob - result.logprob) > 1e-2


def test_keep_and_segments_reach_the_cache(llama) -> None:
    p = prompt(3, 40, 36, 10)
    (result,), _ = run(llama, [Job(p, policy("streaming_llm", 0.6, keep=("a",), sinks=0), Generate(4), "")])
    assert result.telemetry["segments"]["a"] == 1.0
    assert result.telemetry["segments"]["b"] == pytest.approx((n_kept(36, 0.6) - 10) / 26)
    (fair,), _ = run(llama, [Job(p, policy("knorm", 0.5, 1.0), Generate(4), "")])
    assert fair.telemetry["segments"] == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_bytes_are_measured_from_the_tensors(llama, ratio: float) -> None:
    p = prompt(4, 104, 100, 30)
    (result,), engine = run(llama, [Job(p, policy("tova", ratio), Generate(2), "")])
    pairs_full, pairs = 3 * 2 * 100, 3 * 2 * n_kept(100, ratio)
    assert result.telemetry["kv_bytes_full"] == pairs_full * 2 * 16 * 4
    assert result.telemetry["kv_bytes_kept"] == pairs * 2 * 16 * 4
    assert engine.totals.describe()["achieved_ratio"] == pytest.approx(1 - n_kept(100, ratio) / 100)


def test_sliding_windows_are_kept_whole_and_the_achieved_ratio_says_so() -> None:
    model = attached("gemma2")  # layers 0 and 2 slide, layer 1 does not
    _, engine = run(model, [Job(prompt(5, 24, 20), policy("knorm", 0.5), Generate(2), "")])
    assert engine.totals.kv_pairs_full == 2 * (9 + 20 + 9)
    assert engine.totals.kv_pairs_kept == 2 * (9 + 10 + 9)


@given(
    order=st.permutations(range(6)),
    rows=st.integers(1, 7),
    packed=st.sampled_from([8, 30, 4096]),
    steps=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_result_depends_on_nothing_beside_it(llama, order, rows, packed, steps) -> None:
    names = ["tova", "knorm", "none", "h2o", "tova", "snapkv"]
    jobs = [
        Job(
            prompt(i // 2, 20 + 3 * (i // 2), 16),
            Policy() if name == "none" else policy(name, 0.5, float(i % 2)),
            Score((3, i)) if i == 4 else Generate(steps[i]),
            f"doc {i}",
        )
        for i, name in enumerate(names)
    ]
    alone = [run(llama, [job], rows=1)[0][0] for job in jobs]
    together, _ = run(llama, [jobs[i] for i in order], rows=rows, max_prefill_tokens=packed)
    for i, result in zip(order, together, strict=True):
        assert result.tokens == alone[i].tokens
        assert result.logprob == pytest.approx(alone[i].logprob, abs=1e-4)
        assert result.telemetry == alone[i].telemetry


def test_jobs_on_one_context_prefill_it_once(llama) -> None:
    p = prompt(6)
    jobs = [Job(p, policy("tova", r), Generate(2), "") for r in (0.2, 0.5, 0.8)]
    jobs += [Job(p, policy("tova", 0.5), Score((i,)), "") for i in range(5)]
    _, engine = run(llama, jobs, rows=2)
    assert engine.totals.prefill_tokens == p.context


def test_generation_stops_at_eos_at_a_stop_string_and_at_its_length(llama) -> None:
    free = run(llama, [Job(prompt(7), Policy(), Generate(12), "")])[0][0].tokens
    assert len(free) == 12
    ended, _ = run(llama, [Job(prompt(7), Policy(), Generate(12), "")], eos=[free[4]])
    assert ended[0].tokens == free[: free.index(free[4]) + 1]
    fast = tiny.tokenizer()
    stop = fast.decode(free[5:8])
    text = [fast.decode(free[: i + 1]) for i in range(12)]
    stopped, _ = run(llama, [Job(prompt(7), Policy(), Generate(12, (stop,)), "")], decode=fast.decode)
    assert len(stopped[0].tokens) == 1 + next(i for i, t in enumerate(text) if stop in t)


def test_sampled_tokens_do_not_depend_on_the_batch(llama) -> None:
    jobs = [
        Job(prompt(i % 3), policy("knorm", 0.5), Generate(8, sampling=Sampling(True, temperature=1.5, seed=i)), "")
        for i in range(6)
    ]
    alone = [run(llama, [job], rows=1)[0][0].tokens for job in jobs]
    together, _ = run(llama, jobs[::-1], rows=4)
    assert [r.tokens for r in together[::-1]] == alone
    assert alone[0] != alone[3], "the same prompt under another seed"


def test_positions_continue_at_the_original_length(llama, monkeypatch) -> None:
    seen: list[list[int]] = []
    forward = Engine._forward

    def spy(self, phase, tokens, positions, wanted):
        seen.append(positions)
        return forward(self, phase, tokens, positions, wanted)

    monkeypatch.setattr(Engine, "_forward", spy)
    run(llama, [Job(prompt(8, 24, 18), policy("tova", 0.9), Generate(3), "")])
    assert seen == [list(range(18)), list(range(18, 24)), [24], [25]]


def test_a_press_that_fails_names_the_document(llama) -> None:
    def broken(layer, span):
        raise ZeroDivisionError("oh")

    bad = Policy(Press("broken", broken), ratio=0.5)
    with pytest.raises(RequestError, match="task t, doc 7: evicting layer 0 failed: oh"):
        run(llama, [Job(prompt(9), bad, Generate(2), "task t, doc 7")])


def test_a_whitelist_above_the_budget_names_the_document_and_both_numbers(llama) -> None:
    with pytest.raises(UsageError, match=r"doc 3: keep holds 7 tokens, the budget of this context of 18 tokens is 1"):
        run(llama, [Job(prompt(9), policy("tova", 0.9, keep=("a",)), Generate(2), "doc 3")])
