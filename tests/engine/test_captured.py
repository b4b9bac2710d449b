"""Decode steps of fixed shapes, recorded once and replayed: here the recording is the step itself, run again.

What a CUDA graph adds is tested on a device (`test_captured_gpu`).
"""

from __future__ import annotations

import gc
import itertools
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_runs import ask, assert_same, attached, check, prompt, run
from hypothesis import given, settings
from hypothesis import strategies as st
from press_table import SMALL, UNEVEN, policy

from fairkv_eval.attention.sdpa import SDPA
from fairkv_eval.engine import batch as batch_module
from fairkv_eval.engine import buffer, captured
from fairkv_eval.engine import engine as engine_module
from fairkv_eval.engine.captured import Captured
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.engine.recording import Recorder
from fairkv_eval.engine.sampling import Sampling
from fairkv_eval.engine.static_step import StaticStep
from fairkv_eval.eviction.policy import Policy


@pytest.fixture(scope="module")
def llama():
    return attached()


@pytest.fixture(autouse=True)
def recording(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Engines record their steps; the notes that they take."""
    notes: list[str] = []
    record_with(monkeypatch, notes, lambda step: step)
    monkeypatch.setattr(captured, "FEWEST", 1)
    return notes


def record_with(monkeypatch: pytest.MonkeyPatch, notes: list[str], record: Recorder) -> None:
    def decoder(runner: Any, backend: Any, note: Any, compile: str) -> Captured:
        return Captured(runner, backend, notes.append, record)

    monkeypatch.setattr(engine_module, "chosen_decoder", decoder)


def eagerly(attached_model: Any, jobs: list[Job], **kwargs: Any) -> list:
    """The results of steps that are not recorded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "chosen_decoder", captured.chosen_decoder)
        results, engine = run(attached_model, jobs, **kwargs)
        assert not engine.totals.replayed_steps
    return results


SIZES = [(24, 18, 7), (15, 14, 3), (8, 4, 1), (20, 17, 16), (6, 1, 0), (6, 0, 0)]


@pytest.mark.parametrize("name", ["tova", "snapkv", "pyramidkv small", "adakv small"])
def test_recorded_steps_equal_the_slow_reference(llama, name: str) -> None:
    jobs = [Job(prompt(i, *size), policy(name, 0.6, 0.4), Generation(4 + i), "") for i, size in enumerate(SIZES)]
    check(llama, jobs, rows=3)
    assert run(llama, jobs, rows=3)[1].totals.replayed_steps


@pytest.mark.parametrize("name", SMALL)
def test_recorded_steps_equal_eager_ones_under_every_press(llama, name: str) -> None:
    jobs = [Job(prompt(i, *size), policy(name, 0.6, 0.4), Generation(4 + i), "") for i, size in enumerate(SIZES)]
    results, engine = run(llama, jobs, rows=3)
    assert engine.totals.replayed_steps
    for result, expected in zip(results, eagerly(llama, jobs, rows=3), strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "phi3", "gemma2"])
def test_windows_and_bounded_logits(kind: str) -> None:
    jobs = [Job(prompt(seed, 20 + seed, 14), policy("tova", 0.5), Generation(6 + seed), "") for seed in range(3)]
    model = attached(kind)
    check(model, jobs)
    assert run(model, jobs)[1].totals.replayed_steps


@pytest.mark.parametrize("name", ["tova", *UNEVEN])
def test_steps_are_replayed(llama, name: str) -> None:
    jobs = [Job(prompt(i), policy(name, 0.5), Generation(12), "") for i in range(3)]
    results, engine = run(llama, jobs)
    # The first step runs unrecorded, and one more runs before the host has read that all rows have ended.
    assert engine.totals.replayed_steps == 11
    for result, expected in zip(results, eagerly(llama, jobs), strict=True):
        assert_same(result, expected)


POLICIES = [Policy(), policy("tova", 0.5), policy("pyramidkv small", 0.6, 1.0), policy("adakv small", 0.4, 0.5)]
JOBS = st.lists(
    st.tuples(st.integers(1, 30), st.sampled_from(POLICIES), st.integers(1, 12)),
    min_size=1,
    max_size=9,
)


@given(JOBS, st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=40)
def test_any_rows_answer_as_without(llama, drawn: list, rows: int, room: int) -> None:
    """However rows come and go, buffers grow and banks join."""
    jobs = [Job(prompt(i, n + 3, n, n // 2), own, Generation(most), "") for i, (n, own, most) in enumerate(drawn)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffer, "BLOCK", 4)
        patch.setattr(batch_module, "BLOCK", 4)
        patch.setattr(captured, "ROOM", room)
        results, _ = run(llama, jobs, rows=rows)
        expected = eagerly(llama, jobs, rows=rows)
    for result, other in zip(results, expected, strict=True):
        assert_same(result, other)


def test_rows_end_at_their_tokens_and_words(llama) -> None:
    """A row that has ended goes on in its slot; nothing of that reaches an answer."""
    jobs = [Job(prompt(i), policy("tova", 0.5), Generation(15), "") for i in range(6)]
    whole = eagerly(llama, jobs, rows=3)
    eos = {whole[i].tokens[3 + i] for i in range(3)}
    stops = [Generation(15, stop=(f"<{result.tokens[9]}>",)) for result in whole]
    words = [replace(job, want=want) for job, want in zip(jobs, stops, strict=True)]
    options = {"rows": 3, "eos": eos, "decode": lambda tokens: "".join(f"<{token}>" for token in tokens)}
    results, engine = run(llama, words, **options)
    assert engine.totals.replayed_steps
    expected = eagerly(llama, words, **options)
    for result, other in zip(results, expected, strict=True):
        assert_same(result, other)
    assert len({len(result.tokens) for result in results}) > 2


CHOOSING = {
    "draws": Generation(6, sampling=Sampling(do_sample=True, seed=3)),
    "entropy": Generation(9, entropy=True),
    "repetition": Generation(7, sampling=Sampling(repetition_penalty=1.3)),
}


@pytest.mark.parametrize("name", CHOOSING)
def test_rows_choose_from_a_replayed_step(llama, name: str) -> None:
    """Beside rows that take the likeliest token, and with rows that end before others."""
    wants = [CHOOSING[name], Generation(4), replace(CHOOSING[name], max_tokens=12), Generation(9)]
    jobs = [Job(prompt(i), policy("tova", 0.5), want, "") for i, want in enumerate(wants)]
    results, engine = run(llama, jobs, rows=3)
    assert engine.totals.replayed_steps
    for result, expected in zip(results, eagerly(llama, jobs, rows=3), strict=True):
        entropies = [one.telemetry.pop("response_entropy", 0.0) for one in (result, expected)]
        assert entropies[0] == pytest.approx(entropies[1], abs=1e-5)
        assert_same(result, expected)


EAGER = {
    "decode budget": (policy("tova", decode_budget=14, decode_every=3), Generation(6)),
    "packed": (policy("tova", 0.5, kv_bits=4), Generation(6)),
}


@pytest.mark.parametrize("name", EAGER)
def test_other_rows_run_eagerly(llama, recording: list[str], name: str) -> None:
    own, want = EAGER[name]
    jobs = [Job(prompt(i), own, want, "") for i in range(2)]
    results, engine = run(llama, jobs)
    assert not engine.totals.replayed_steps and not recording
    for result, expected in zip(results, eagerly(llama, jobs), strict=True):
        assert_same(result, expected)


def test_rows_of_both_kinds_take_turns(llama) -> None:
    """Rows in few bits enter beside others, which go on eagerly and are recorded again when those have ended."""
    lengths = [(20, {}), (3, {"kv_bits": 4}), (9, {}), (20, {})]
    jobs = [Job(prompt(i), policy("tova", 0.5, **held), Generation(n), "") for i, (n, held) in enumerate(lengths)]
    results, engine = run(llama, jobs, rows=2)
    assert engine.totals.replayed_steps
    for result, expected in zip(results, eagerly(llama, jobs, rows=2), strict=True):
        assert_same(result, expected)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            "operation not permitted when stream is capturing\nmore of it",
            "operation not permitted when stream is capturing",
        ),
        ("", "RuntimeError"),
    ],
)
def test_a_step_that_cannot_be_recorded_runs_all_the_same(
    llama, monkeypatch, recording: list[str], error: str, reason: str
) -> None:
    def record(step: StaticStep) -> Any:
        raise RuntimeError(error)

    record_with(monkeypatch, recording, record)
    jobs = [Job(prompt(i), policy("tova", 0.5), Generation(9), "") for i in range(5)]
    results, engine = run(llama, jobs, rows=2)
    assert not engine.totals.replayed_steps
    assert recording == [f"decode steps run eagerly, since they could not be recorded: {reason}"]
    for result, expected in zip(results, eagerly(llama, jobs, rows=2), strict=True):
        assert_same(result, expected)


def test_a_recording_that_computes_something_else_is_not_used(llama, monkeypatch, recording: list[str]) -> None:
    def record(step: StaticStep) -> Any:
        def replay() -> None:
            step()
            step.logits = step.logits + torch.randn(step.logits.shape)

        return replay

    record_with(monkeypatch, recording, record)
    jobs = [Job(prompt(i), policy("tova", 0.5), Generation(9), "") for i in range(5)]
    results, engine = run(llama, jobs, rows=2)
    assert not engine.totals.replayed_steps
    assert recording[0].startswith(
        "decode steps run eagerly, since they could not be recorded: a replayed step's logits"
    )
    for result, expected in zip(results, eagerly(llama, jobs, rows=2), strict=True):
        assert_same(result, expected)


def test_an_answer_that_is_left_early_leaves_nothing_behind(llama) -> None:
    """A caller may stop reading results; the engine's next run is not confused by the step that still ran."""
    jobs = [Job(prompt(i), policy("tova", 0.5), Generation(9 + i), "") for i in range(3)]
    _, engine = run(llama, jobs, rows=2)
    for _ in engine.run(jobs):
        break
    again = dict(engine.run(jobs))
    for index, expected in enumerate(eagerly(llama, jobs, rows=2)):
        assert_same(again[index], expected)


def test_runs_of_one_engine_take_turns(llama) -> None:
    """A step that still ran as another batch came is run again, for tokens that nobody has read."""
    one, other = (
        [Job(prompt(i), policy("tova", 0.5), Generation(5 + 4 * (i % 3)), "") for i in ids]
        for ids in (range(5), range(5, 12))
    )
    engine = engine_module.Engine(*llama, rows=2, ask=ask)
    results: tuple[dict, dict] = {}, {}
    runs = [engine.run(one), engine.run(other)]
    for _ in range(len(other)):
        for run_of, results_of in zip(runs, results, strict=True):
            results_of.update(itertools.islice(run_of, 1))
    assert engine.totals.replayed_steps
    for jobs, results_of in zip((one, other), results, strict=True):
        for index, expected in enumerate(eagerly(llama, jobs, rows=2)):
            assert_same(results_of[index], expected)


@pytest.mark.parametrize("n_read", [1, None])
def test_a_run_that_is_over_or_left_holds_no_memory(llama, n_read: int | None) -> None:
    steps: list[weakref.ref] = []

    class Watched(StaticStep):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            steps.append(weakref.ref(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured, "StaticStep", Watched)
        engine = engine_module.Engine(*llama, rows=2)
        jobs = [Job(prompt(i), policy("tova", 0.5), Generation(9 + i), "") for i in range(2)]
        assert [*itertools.islice(engine.run(jobs), n_read)]
    gc.collect()
    assert steps and not any(step() for step in steps)


def test_a_cpu_and_off_run_eagerly(llama) -> None:
    for compile in ("auto", "off"):
        engine = engine_module.Engine(*llama, ask=ask)
        chosen = captured.chosen_decoder(engine.runner, SDPA, print, compile)
        assert type(chosen).__name__ == "Eager" and not chosen.replays


def test_recorded_steps_take_no_new_tensors_from_outside(llama) -> None:
    """A graph holds fast where its tensors lie: between uploads, none of them may be another one."""
    engine = engine_module.Engine(*llama, rows=2)
    places: list[tuple] = []

    class Watched(StaticStep):
        def __call__(self) -> None:
            tensors = (self.tokens, self.positions, self.ends, *(bank.lengths for bank in self.banks))
            places.append(tuple(t.data_ptr() for t in tensors) + self.key)
            super().__call__()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captured, "StaticStep", Watched)
        list(engine.run([Job(prompt(i), policy("tova", 0.5), Generation(9), "") for i in range(2)]))
    assert len(places) == 9 + 2 and len(set(places)) == 1  # two of them compare the recording
    assert torch.is_inference_mode_enabled() is False
