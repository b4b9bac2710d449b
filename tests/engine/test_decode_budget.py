"""decode_budget: a row that decodes is cut, layer by layer and head by head, as the slow reference cuts it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dense_reference
import pytest
import torch
from engine_runs import attached, check, positions_run, prompt, run
from press_table import policy

from fairkv_eval.attention import sdpa
from fairkv_eval.attention.sdpa import masked
from fairkv_eval.engine import engine as engine_module
from fairkv_eval.engine.batch import Batch
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.errors import RequestError, UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press
from fairkv_eval.prompts.segments import Segment

ENTRY = 2 * 16 * 4  # bytes of one pair
PRESSES = ["streaming_llm", "knorm", "keydiff", "tova", "h2o", "h2o recent"]


@pytest.fixture(scope="module")
def llama():
    return attached()


def rolling(name: str = "tova", ratio: float = 0.5, budget: int = 10, every: int = 4, keep: tuple = (), **given):
    return policy(name, ratio, 0.0, keep, decode_budget=budget, decode_every=every, **given)


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("name", PRESSES)
def test_generation_equals_the_slow_reference(llama, name: str, positions: str) -> None:
    """Beside rows without a decode budget and with heads of their own lengths, which come and go."""
    moves: Any = {"positions": positions}
    jobs = [
        Job(prompt(0, 24, 18), rolling(name, 0.5, 10, 3, **moves), Generation(15), ""),
        Job(prompt(0, 24, 18), policy("adakv small", 0.5), Generation(4), ""),
        Job(prompt(1, 20, 15), rolling(name, 0.0, 12, 1, **moves), Generation(9), ""),
        Job(prompt(1, 20, 15), policy(name, 0.5), Generation(12), ""),
        Job(prompt(2, 30, 22, 4), rolling(name, 0.7, 8, 4, keep=("a",), **moves), Generation(11), ""),
        Job(prompt(3, 9, 0, 0), rolling(name, 0.5, 6, 2, **moves), Generation(8), ""),
        Job(prompt(4, 9, 5, 0), rolling(name, 0.2, 64, 2, **moves), Generation(6), ""),
        Job(prompt(4, 9, 5, 0), rolling(name, 0.2, 4, 2, **moves), LogLikelihood((5, 77, 130)), ""),
    ]
    check(llama, jobs, rows=4)


@pytest.mark.parametrize("positions", ["original", "contiguous"])
@pytest.mark.parametrize("name", ["streaming_llm", "h2o"])
def test_layers_that_slide_equal_the_slow_reference(name: str, positions: str) -> None:
    """Windows of 9 under budgets below and above that, one of them with a whitelist."""
    jobs = [
        Job(prompt(5, 24, 18, 4), rolling(name, 0.5, 7, 3, ("a",), positions=positions), Generation(14), ""),
        Job(prompt(6, 20, 14), rolling(name, 0.0, 14, 2, positions=positions), Generation(9), ""),
    ]
    check(attached("gemma2"), jobs)


class Held:
    """Bytes that the rows hold before every decode step."""

    def __init__(self, monkeypatch) -> None:
        self.bytes: list[int] = []
        self.layers: list[list[int]] = []
        note = self

        class Spy(Batch):
            def settle(self) -> None:
                super().settle()
                layers = zip(*(cache.layers for cache in self.caches), strict=True)
                held = [sum(buffer.nbytes_held for buffers in layer for buffer in buffers) for layer in layers]
                note.layers.append(held)
                note.bytes.append(sum(held))

        monkeypatch.setattr(engine_module, "Batch", Spy)


@pytest.mark.parametrize("name", PRESSES)
def test_a_row_stays_within_budget_and_period(llama, monkeypatch, name: str) -> None:
    held = Held(monkeypatch)
    (result,), _ = run(llama, [Job(prompt(7, 24, 18), rolling(name, 0.5, 12, 8), Generation(200), "")])
    assert len(result.tokens) == 200
    pairs = [count / (6 * ENTRY) for count in held.bytes]
    assert pairs[0] == 9 + 6
    # After the first step, the ninth and so on the budget is what is left; a pair a step in between.
    assert pairs[1:] == [12 + step % 8 for step in range(198)]


def test_layers_that_slide_stay_within_window_and_period(monkeypatch) -> None:
    held = Held(monkeypatch)
    run(attached("gemma2"), [Job(prompt(7, 24, 18), rolling("tova", 0.5, 12, 8), Generation(60), "")])
    for step, layers in enumerate(held.layers[1:]):
        assert [count / (2 * ENTRY) for count in layers] == [size + step % 8 for size in (9, 12, 9)]


def test_bytes_of_mixed_rows_add_up(llama, monkeypatch) -> None:
    jobs = [
        Job(prompt(8, 24, 18), rolling("knorm", 0.5, 10, 4), Generation(20), ""),
        Job(prompt(9, 30, 18), policy("kvzip", 0.5), Generation(20), ""),
        Job(prompt(10, 26, 18), policy("tova", 0.5), Generation(20), ""),
    ]
    alone = []
    for job in jobs:
        held = Held(monkeypatch)
        run(llama, [job])
        alone.append(held.bytes)
    held = Held(monkeypatch)
    run(llama, jobs, rows=4)
    assert held.bytes == [sum(counts) for counts in zip(*alone, strict=True)]


def test_the_position_goes_back_to_the_budget(llama, monkeypatch) -> None:
    seen = positions_run(monkeypatch)
    run(llama, [Job(prompt(11, 24, 18), rolling(budget=10, every=4, positions="contiguous"), Generation(11), "")])
    # 9 of 18 are kept, 6 follow; the first step and every fourth after it ends with the budget.
    assert seen[1:] == [list(range(9, 15)), [15], [10], [11], [12], [13], [10], [11], [12], [13], [10]]


def test_original_positions_go_on(llama, monkeypatch) -> None:
    seen = positions_run(monkeypatch)
    run(llama, [Job(prompt(11, 24, 18), rolling(budget=10, every=4), Generation(11), "")])
    assert seen[1:] == [list(range(18, 24)), *([24 + step] for step in range(10))]


def test_the_context_is_evicted_by_the_ratio_alone(llama) -> None:
    p = prompt(12)
    jobs = [Job(p, rolling(ratio=ratio, budget=5), Generation(3), "") for ratio in (0.0, 0.5)]
    results, _ = run(llama, jobs)
    assert [result.telemetry["keep_rate"] for result in results] == [1.0, 0.5]


def test_a_decode_budget_that_is_never_reached_changes_nothing(llama) -> None:
    jobs = [Job(prompt(13), own, Generation(12), "") for own in (rolling("h2o", 0.5, 100, 1), policy("h2o", 0.5))]
    (a, b), _ = run(llama, jobs)
    assert a.tokens == b.tokens


@pytest.mark.parametrize("ratio", [0.0, 0.5])
def test_a_whitelist_above_the_decode_budget_names_the_document(llama, ratio: float) -> None:
    with pytest.raises(UsageError, match="doc 5: keep holds 7 tokens, more than decode_budget=6"):
        run(llama, [Job(prompt(14), rolling("tova", ratio, 6, keep=("a",)), Generation(2), "doc 5")])


def test_ranges_and_marks_of_the_context_stay(llama) -> None:
    """Whatever way a whitelist is written."""
    p = prompt(2, 30, 22, 4)
    marked = replace(p, marks=(Segment("special", 0, 1), Segment("special", 1, 4)))
    jobs = [
        Job(own, rolling("knorm", 0.7, 8, 4, keep=keep), Generation(11), "")
        for own, keep in ((p, ("a",)), (p, ("0:4",)), (marked, ("special",)), (p, ()))
    ]
    results, _ = run(llama, jobs)
    a, b, c, free = (result.tokens for result in results)
    assert a == b == c != free


def test_an_unknown_name_in_keep_names_the_document(llama) -> None:
    with pytest.raises(UsageError, match=r"doc 5: .*segment in keep 'c'|doc 5: unknown segment in keep"):
        run(llama, [Job(prompt(14), rolling("tova", 0.0, 6, keep=("c",)), Generation(2), "doc 5")])


def broken(layer, span):
    raise ZeroDivisionError("oh")


def no_number(layer, span):
    return torch.full((layer.kv_heads, len(span)), float("nan"))


@pytest.mark.parametrize("rule", [broken, no_number])
def test_a_rule_that_fails_while_decoding_names_the_document(llama, rule) -> None:
    press = Press("broken", no_number, decode=rule)
    with pytest.raises(RequestError, match="task t, doc 7: "):
        run(llama, [Job(prompt(15), Policy(press, decode_budget=5), Generation(4), "task t, doc 7")])


def test_positions_that_are_no_rotation_name_the_document() -> None:
    model = attached("gpt2")
    with pytest.raises(UsageError, match="doc 3: positions=contiguous: how layer 0 turns its keys"):
        run(model, [Job(prompt(16), rolling(ratio=0.0, budget=5, positions="contiguous"), Generation(4), "doc 3")])


def test_keys_that_move_at_every_step_do_not_wear_off(monkeypatch) -> None:
    """A key that has moved up two hundred times by one position is, within rounding, where one move would put it."""
    model, windows = attached("llama", num_hidden_layers=1, dtype=torch.bfloat16)
    shown: list[torch.Tensor] = []

    def spy(q, k, *rest):
        shown[:] = [k.clone()]
        return masked(q, k, *rest)

    monkeypatch.setattr(sdpa, "masked", spy)
    own = rolling("streaming_llm", 0.0, 200, 1, positions="contiguous")
    p = prompt(17, 24, 18)
    (result,), _ = run((model, windows), [Job(p, own, Generation(380), "")])
    tokens = [*p.tokens, *result.tokens[:-1]]
    seen = [*tokens[:4], *tokens[-197:]]
    with dense_reference.Unturned(model) as unturned:  # the first layer's keys are their tokens', wherever they stand
        dense_reference.logits_of(model, seen, dense_reference.Dense())
    expected = unturned.rotate(unturned.keys[0].float(), range(201))
    found = shown[-1][0].float()
    assert found.shape == expected.shape
    assert float((found - expected).norm() / expected.norm()) < 0.02
