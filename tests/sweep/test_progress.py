"""How far a sweep is, here and in Ray's workers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fairkv_eval.engine.jobs import LogLikelihood
from fairkv_eval.engine.result import Result
from fairkv_eval.sweep.journal import Key
from fairkv_eval.sweep.progress import AnswerCounter, BarPosition, ReportingBar, WorkerBars, cells_done, running_bars


def test_a_cell_and_a_prompt_count_with_their_last_answer() -> None:
    keys = [Key(cell, request, repeat) for request in ("0", "1") for repeat in (0, 1) for cell in ("a", "b")]
    counter = AnswerCounter(keys)
    job: Any = SimpleNamespace(want=LogLikelihood((1, 2)))
    texts = [counter.add(key, job, Result({})).rpartition(", ")[0] for key in keys]
    assert texts == [f"{cells}/2 cells, {n // 2}/4 prompts" for n, cells in enumerate((0, 0, 0, 0, 0, 0, 1, 2), 1)]


def test_a_reporting_bar_draws_nothing_and_reports_its_position(capfd) -> None:
    reports = []

    def report(name: str, position: BarPosition) -> None:
        reports.append((name, position))

    with ReportingBar(total=3, desc="say", mininterval=0, report=report) as bar:
        for done in range(3):
            bar.set_postfix_str(f"{done + 1}/3 prompts", refresh=False)
            bar.update(1)
    assert reports[0] == ("say", BarPosition(0, 3, ""))
    assert [position.done for _, position in reports[1:4]] == [1, 2, 3]
    assert reports[-1] == ("say", BarPosition(3, 3, "3/3 prompts"))
    assert capfd.readouterr() == ("", "")
    reports.clear()
    with ReportingBar(total=0, desc="say", disable=True, report=report):
        pass
    assert not reports


def test_unfinished_cells_count_for_the_share_that_is_done() -> None:
    bars = WorkerBars()
    cells = {"a": 10, "b": 4, "silent": 7}
    assert cells_done(bars.positions(), cells, bars=2) == 0 and running_bars(bars.positions(), cells) == ""
    bars.report("a", "say", BarPosition(50, 50, "5/5 prompts"))
    bars.report("a", "say fidelity", BarPosition(1, 5, ""))
    bars.report("b", "pick", BarPosition(3, 12, "1/4 cells"))
    bars.report("ended", "say", BarPosition(1, 1, ""))
    assert cells_done(bars.positions(), cells, bars=2) == 10 * (1 + 0.2) / 2 + 4 * 0.25 / 2
    assert cells_done(bars.positions(), {"b": 4}, bars=1) == 1
    assert running_bars(bars.positions(), cells) == "say fidelity 1/5; pick 3/12 (1/4 cells)"
    bars.report("b", "pick", BarPosition(0, 0, ""))  # nothing is missing
    assert cells_done(bars.positions(), {"b": 4}, bars=1) == 4
