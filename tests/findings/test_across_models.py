"""Claims of several models side by side."""

from __future__ import annotations

from dataclasses import replace

import pytest
import synthetic_sweep

from fairkv_eval.findings.across_models import across_models, unlike_tasks
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
            assert f", n={row.contrast.n}" in claim.shown[0]
            assert (", needed " in claim.shown[0]) == (of.verdict == "cannot be told" and bool(row.needed))
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


def test_a_task_of_another_version_or_on_other_documents_is_named(both: list[ModelReport]) -> None:
    many, one = both
    assert unlike_tasks(both) == []
    of = one.tasks["raccoon_plain"]
    other = frozenset((str(number), "other") for number in range(24))
    newer, moved, fewer = (
        replace(one, tasks={"raccoon_plain": task})
        for task in (of._replace(version="2.0"), of._replace(documents=other), of._replace(documents=frozenset()))
    )
    start = "raccoon_plain is not the same: version 1.0, 24 documents for a|b; version "
    assert unlike_tasks([many, newer]) == [f"{start}2.0, 24 documents for small"]
    assert unlike_tasks([many, moved]) == [f"{start}1.0, 24 documents for small; these are others"]
    assert unlike_tasks([many, fewer]) == [f"{start}1.0, 0 documents for small"]
    assert f"{start}2.0, 24 documents for small.".replace("|", "\\|") in as_markdown([many, newer])


def test_the_markdown_opens_with_them_if_there_are_several(both: list[ModelReport]) -> None:
    text = as_markdown(both)
    header = text.splitlines()[0]
    assert header == "| finding | claim | measure | a\\|b | small |"
    assert len({line.replace("\\|", "").count("|") for line in text.split("\n\n")[0].splitlines()}) == 1
    assert as_markdown(both[:1]).startswith("## a")
