"""Rows whose pairs are packed, through the engine, against dense attention over pairs quantized by loops."""

from __future__ import annotations

from dataclasses import replace

import dense_reference
import press_table
import pytest
import torch
from engine_runs import ask, attached, prompt, run
from press_table import policy
from quantised_by_loops import PackedDense

from fairkv_eval.engine.cache import ContextCache, RowCache
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.engine.result import Result
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy

STORAGES = {
    "8": {"kv_bits": 8},
    "4 by group": {"kv_bits": 4, "kv_group": 4},
    "3": {"kv_bits": 3, "kv_residual": 3},
    "k4v2": {"kv_bits": "k4v2", "kv_scheme": "rotated"},
    "kivi": {"kv_bits": 2, "kv_scheme": "kivi", "kv_group": 4, "kv_residual": 5},
    "kivi, no window": {"kv_bits": "k8v4", "kv_scheme": "kivi", "kv_group": 4, "kv_residual": 0},
    "channels": {"key_channels": 0.4, "key_window": 5},
    "channels, 4": {"key_channels": 0.25, "key_window": 2, "kv_bits": 4, "kv_group": 4},
    "channels, kivi": {"key_channels": 0.5, "kv_bits": "k4v2", "kv_scheme": "kivi", "kv_group": 4, "kv_residual": 3},
    "plain keys": {"kv_bits": "k16v4", "kv_scheme": "rotated", "kv_residual": 2},
}
PRESSES = {
    "none": {},
    "tova": {"press": "tova", "ratio": 0.5},
    "fair knorm": {"press": "knorm", "ratio": 0.4, "fair": True},
    "adakv": {"press": "adakv", "base": "knorm", "ratio": 0.5},
    "pyramidkv": {"press": "pyramidkv", "window": 2, "budget": 8},
}


def policy_of(storage: str, press: str = "tova", **others: object) -> Policy:
    return Policy.of({**PRESSES[press], **STORAGES[storage], **others})


def jobs_of(policies: list[Policy], tokens: int = 9) -> list[Job]:
    """A generation and a log-likelihood of contexts of different lengths under each policy."""
    jobs = []
    for applied in policies:
        for seed, (n, context) in enumerate([(24, 18), (31, 27), (6, 0)]):
            text = prompt(seed, n, context, cut=6)
            jobs.append(Job(text, applied, Generation(tokens), f"{applied.label} {seed}"))
            jobs.append(Job(text, applied, LogLikelihood((7, 99, 3, 200)), f"{applied.label} {seed} scored"))
    return jobs


def reference(model, job: Job, said: tuple[int, ...]) -> torch.Tensor:
    """The log-probabilities that predict each of these tokens: ``[len(said), vocabulary]``."""
    prompt, n = job.prompt, job.prompt.context_length
    kept = dense_reference.survivors(model, prompt.tokens[:n], prompt.segments, job.policy) if n else None
    kept = kept or [[[]] * 2] * 3
    first = len(prompt.tokens)
    steps = [] if isinstance(job.want, LogLikelihood) else range(first, first + len(said))
    spans = [(segment.start, segment.stop) for segment in prompt.segments] if job.policy.fair else []
    phase = PackedDense(job.policy.storage, n, kept, [n, *steps], spans)
    tokens = [*prompt.tokens, *said[:-1]]
    ids, positions = torch.tensor([tokens]), torch.arange(len(tokens))[None]
    with torch.inference_mode():
        logits = model(input_ids=ids, position_ids=positions, use_cache=False, kv=phase).logits[0]
    return logits[first - 1 :].log_softmax(-1)


def check(model, job: Job, result: Result) -> None:
    said = job.want.continuation if isinstance(job.want, LogLikelihood) else result.tokens
    logprobs = reference(model, job, said)
    if isinstance(job.want, LogLikelihood):
        expected = logprobs.gather(1, torch.tensor(said)[:, None]).sum()
        assert result.logprob == pytest.approx(float(expected), abs=1e-5)  # summed in float32
    else:
        assert list(result.tokens) == logprobs.argmax(-1).tolist()


@pytest.fixture(scope="module")
def llama():
    # In float64, since in float32 an entry on the edge of two codes may fall on either side.
    return attached(dtype=torch.float64)


@pytest.mark.parametrize("press", PRESSES)
@pytest.mark.parametrize("storage", STORAGES)
def test_answers_and_scores_are_those_of_dense_attention(llama, storage: str, press: str) -> None:
    jobs = jobs_of([policy_of(storage, press)])
    for job, result in zip(jobs, run(llama, jobs, softmax_dtype=torch.float64)[0], strict=True):
        check(llama[0], job, result)


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "qwen3"])
def test_windows_and_bounded_logits(kind: str) -> None:
    model = attached(kind, dtype=torch.float64)
    jobs = jobs_of([policy_of("3"), policy_of("kivi", "none"), policy_of("channels")], tokens=6)
    for job, result in zip(jobs, run(model, jobs)[0], strict=True):
        check(model[0], job, result)


@pytest.mark.parametrize("first", [0, 1])
def test_rows_of_other_channels_are_apart_where_the_first_layer_slides(first: int, monkeypatch) -> None:
    model, held = attached("gemma2", dtype=torch.float64), []
    policies = [policy_of("channels"), policy_of("channels", key_channels=0.25), Policy.of(PRESSES["tova"])]
    jobs = [Job(prompt(seed), own, Generation(4), own.label) for seed, own in enumerate(policies)]
    monkeypatch.setattr(RowCache, "append", watched(RowCache.append, held))
    for job, result in zip(jobs[first:], run(model, jobs[first:], rows=3)[0], strict=True):
        check(model[0], job, result)
    assert held and max(held) == 1


def watched(append, held: list[int]):
    """`RowCache.append`, which notes the rows that stand in one cache."""

    def noting(self, *args):
        held.append(self.n_rows)
        return append(self, *args)

    return noting


@pytest.mark.parametrize("press", ["none", "tova", "adakv"])
def test_no_channel_pruned_is_the_plain_cache(press: str) -> None:
    model = attached()
    policies = [Policy.of({**PRESSES[press], **more}) for more in ({}, {"key_channels": 0})]
    plain, none = (run(model, jobs_of([own]))[0] for own in policies)
    assert [(r.tokens, r.logprob, r.telemetry) for r in plain] == [(r.tokens, r.logprob, r.telemetry) for r in none]


@pytest.mark.parametrize("press", ["none", "tova", "adakv"])
def test_sixteen_bits_are_the_plain_cache(press: str) -> None:
    model = attached()
    plain, stored = (run(model, jobs_of([Policy.of({**PRESSES[press], **bits})]))[0] for bits in ({}, {"kv_bits": 16}))
    assert [(r.tokens, r.logprob, r.telemetry) for r in plain] == [(r.tokens, r.logprob, r.telemetry) for r in stored]


@pytest.mark.parametrize("rows", [2, 64])
def test_a_row_does_not_depend_on_its_companions(llama, rows: int) -> None:
    policies = [policy_of(storage, press) for storage in STORAGES for press in ("tova", "adakv")]
    jobs = jobs_of(policies, tokens=7)
    together = run(llama, jobs, rows=rows)[0]
    for index in range(0, len(jobs), 11):
        (alone,), _ = run(llama, [jobs[index]], rows=1)
        assert alone.tokens == together[index].tokens
        assert alone.logprob == pytest.approx(together[index].logprob, abs=1e-6)
        assert alone.telemetry == together[index].telemetry


def test_a_row_goes_on_when_banks_merge_and_rows_leave(llama, monkeypatch) -> None:
    """Rows that end at different times, in banks of small size classes, so that they merge and slots move."""
    monkeypatch.setattr("fairkv_eval.engine.buffer.BLOCK", 4)
    monkeypatch.setattr("fairkv_eval.engine.batch.BLOCK", 4)
    jobs = [
        Job(prompt(seed, n, n - 4), policy_of(storage), Generation(tokens), f"{seed}")
        for seed, (n, tokens) in enumerate([(12, 20), (30, 5), (18, 24), (26, 11), (9, 30), (22, 3)])
        for storage in ("3", "kivi")
    ]
    for job, result in zip(jobs, run(llama, jobs, rows=5)[0], strict=True):
        assert len(result.tokens) == job.want.max_tokens
        check(llama[0], job, result)


def test_bytes_are_the_formula_and_the_tensors(llama) -> None:
    for storage in STORAGES:
        for press in ("none", "tova"):
            applied = policy_of(storage, press)
            job = Job(prompt(0, 40, 36), applied, Generation(2), storage)
            (result,), engine = run(llama, [job])
            kept = applied.n_kept(36) if applied.evicts else 36
            expected = 3 * 2 * applied.storage.nbytes(kept, 16, 16, torch.float64)
            assert result.telemetry["kv_bytes_kept"] == engine.totals.kv_bytes_kept == expected
            assert result.telemetry["kv_bytes_full"] == 3 * 2 * 36 * 2 * 16 * 8
            assert result.telemetry["keep_rate"] == kept / 36


class Nobody:
    """A watcher that sees nothing."""

    def computed(self, layer, window) -> None: ...

    def kept(self, layer, index) -> None: ...


def cached(model, own: Policy) -> ContextCache:
    return Engine(*model, ask=ask).watch(Job(prompt(4, 30, 26, cut=9), own, Generation(1), own.label), Nobody())


@pytest.mark.parametrize("others", [{}, {"fair": 1.0}, {"merge": "d2o"}, {"merge": "similar", "fair": 0.5}])
@pytest.mark.parametrize("name", press_table.PRESSES)
def test_every_press_keeps_the_same_pairs_in_fewer_channels(llama, name: str, others: dict) -> None:
    own = policy(name, **others)
    whole, pruned = cached(llama, own), cached(llama, replace(own, key_channels=0.5, key_window=4))
    assert pruned.pairs == whole.pairs and pruned.keep_rates == whole.keep_rates
    assert pruned.nbytes == sum(
        part.heads * (part.length * (8 + 16) * 8 + 8) for layer in pruned.layers for part in layer
    )
    for ours, theirs in zip(pruned.layers, whole.layers, strict=True):
        for part, all_channels in zip(ours, theirs, strict=True):
            keys = torch.zeros_like(all_channels.keys)
            for head, channels in enumerate(part.channels.index.tolist()):
                keys[head][:, channels] = all_channels.keys[head][:, channels]
            assert torch.equal(part.plain().keys, keys) and torch.equal(part.plain().values, all_channels.values)


def test_policies_on_one_prefill_are_each_alone(llama) -> None:
    policies = [Policy(), *(policy_of(storage, press) for storage in STORAGES for press in ("none", "tova"))]
    jobs = [Job(prompt(3), own, Generation(6), own.label) for own in policies]
    results, engine = run(llama, jobs, rows=len(jobs))
    assert engine.totals.prefill_tokens == 18
    for job, result in zip(jobs, results, strict=True):
        assert result.tokens == run(llama, [job])[0][0].tokens


def test_keys_are_stored_where_they_moved_to(llama) -> None:
    """Eight bits change none of these answers."""
    plain = policy("tova", ratio=0.5, positions="contiguous")
    packed = Policy.of({**plain.arguments(), "kv_bits": 8, "kv_group": 8})
    jobs, fine = ([Job(prompt(seed), own, Generation(8), own.label) for seed in range(3)] for own in (plain, packed))
    for a, b in zip(run(llama, jobs)[0], run(llama, fine)[0], strict=True):
        assert a.tokens == b.tokens and b.telemetry["kv_bytes_kept"] < a.telemetry["kv_bytes_kept"]


def test_a_group_larger_than_the_head_names_both(llama) -> None:
    job = Job(prompt(0), Policy.of({"kv_bits": 4, "kv_group": 64}), Generation(2), "doc 7")
    with pytest.raises(UsageError, match=r"doc 7: .*kv_group=64 .* 16 channels"):
        run(llama, [job])
