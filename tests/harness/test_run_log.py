"""The log of a run, handed over from process to process."""

from __future__ import annotations

from fairkv_eval.engine.totals import Totals
from fairkv_eval.harness.run_log import RunLog


def test_a_log_is_handed_over_once_and_goes_on_empty() -> None:
    first, second = RunLog(Totals(contexts=2)), RunLog(Totals(contexts=3))
    note = second.note  # what a Prompter holds for the whole run
    first.note("truncated")
    note("truncated", 2)
    first.add(second.handed_over())
    assert first == RunLog(Totals(contexts=5), {"truncated": 3}) and second == RunLog()
    note("folded")
    assert second.notes == {"folded": 1}
