"""Claims of several models side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic_sweep

from fairkv_eval.findings.across_models import across_models
from fairkv_eval.findings.report import ModelReport, reports
from fairkv_eval.findings.tables import as_markdown


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[ModelReport]:
    """A model with all tasks and one with a single task, under other policies."""
    folder = tmp_path_factory.mktemp("sweeps")
    synthetic_sweep.write(folder / "many", n=24)
    synthetic_sweep.write(folder / "one", n=24, presses=("tova",), tasks=("raccoon_plain",))
    (many,), (one,) = (reports(folder / name) for name in ("many", "one"))
    return [replace(many, model="a|b"), replace(one, model="small")]


def test_each_claim_stands_once_with_what_decides_it(both: list[ModelReport]) -> None:
    claims = across_models(both)
    assert [claim.measured for claim in claims] == [c.claim.measured for j in both[0].findings for c in j.claims]
    judged = [claim for of in both[0].findings for claim in of.claims]
    for claim, of in zip(claims, judged, strict=True):
        if of.rows:
            row = of.rows[0]
            assert claim.measure == f"{row.contrast.metric} of {row.contrast.task}"
            assert claim.shown[0].startswith(f"{of.verdict}: {row.contrast.estimate:+.3f} [{row.contrast.low:+.3f}")
            assert (" documents would tell" in claim.shown[0]) == (of.verdict == "cannot be told" and bool(row.needed))
        else:
            assert claim.shown[0] == "not run"


def test_a_claim_that_one_model_did_not_run_says_so(both: list[ModelReport]) -> None:
    shown = {claim.measured: claim.shown for claim in across_models(both)}
    assert shown["following, fair − plain"][1] == "not run" != shown["following, fair − plain"][0]
    assert "not run" not in shown["leakage, fair − plain"]


def test_another_measure_than_the_first_models_is_named(both: list[ModelReport]) -> None:
    forward, back = across_models(both), across_models(both[::-1])
    for a, b in zip(forward, back, strict=True):
        if "not run" not in a.shown:
            assert (a.measure == b.measure) == (" of " not in a.shown[1])
        assert b.measure or not a.measure


def test_the_markdown_opens_with_them_if_there_are_several(both: list[ModelReport]) -> None:
    text = as_markdown(both)
    header = text.splitlines()[0]
    assert header == "| finding | claim | measure | a\\|b | small |"
    assert len({line.replace("\\|", "").count("|") for line in text.split("\n\n")[0].splitlines()}) == 1
    assert as_markdown(both[:1]).startswith("## a")
