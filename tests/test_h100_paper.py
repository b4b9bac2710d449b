"""The arithmetic on paper against published sizes, this package's own constants, and itself worked out another way."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from fairkv_eval.engine.cache import BLOCK
from fairkv_eval.engine.jobs import Generate, Job
from fairkv_eval.engine.memory import rows_that_fit
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.prompts.prompt import Prompt

PATH = Path(__file__).parents[1] / "benchmarks" / "h100_paper.py"


@pytest.fixture(scope="module")
def paper():
    spec = importlib.util.spec_from_file_location("h100_paper", PATH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_the_model_has_its_published_size(paper) -> None:
    assert paper.Model().parameters == 8_030_261_248
    assert paper.Model().entry == 128 * 1024


@pytest.mark.parametrize("context", [1024, 8192, 32768])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
def test_rows_are_those_the_engine_would_take(paper, context: int, ratio: float) -> None:
    device, model, work = paper.Device(), paper.Model(), paper.Work()
    policy = Policy(load_press("knorm"), (), ratio)
    assert work.block == BLOCK and paper.n_kept(context, ratio) == policy.n_kept(context)
    job = Job(Prompt((0,) * (context + work.tail), context), policy, Generate(work.answer), "")
    free = int(device.memory - device.workspace - 2 * model.parameters)
    expected = rows_that_fit([job], model.entry, free, 10**6)
    assert paper.rows_that_fit(device, model, work, policy.n_kept(context)) == expected


@pytest.mark.parametrize("held", [0, 100, 294, 390])
def test_compute_takes_over_where_it_says(paper, held: int) -> None:
    device, model = paper.Device(), paper.Model()
    rows = paper.compute_takes_over(device, model, held)
    read = paper.step_bytes(model, rows, held) / device.bandwidth
    assert read == pytest.approx(paper.step_flops(model, rows, held) / device.half)
    for more in (1.1, 0.9):
        bound_by_reading = paper.step_seconds(device, model, rows * more, held) == pytest.approx(
            paper.step_bytes(model, rows * more, held) / device.bandwidth
        )
        assert bound_by_reading == (more < 1)


def test_rows_that_hold_much_are_never_bound_by_compute(paper) -> None:
    device, model = paper.Device(), paper.Model()
    balance = paper.held_at_balance(device, model)
    assert paper.compute_takes_over(device, model, balance + 1) == float("inf")
    assert 0 < paper.compute_takes_over(device, model, balance - 1) < float("inf")


def test_it_prints_its_tables(paper, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["h100_paper.py", "--layers", "16"])
    paper.main()
    out = capsys.readouterr().out
    assert "KV pairs of a token 65,536 bytes" in out and out.count("| 32,768 |") == 5
