"""Printed tables show headline metrics, at most eight a task; everything else sees all metrics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from lm_eval.utils import make_table
from package_tasks import manager

from fairkv_eval.documents.metadata import options
from fairkv_eval.errors import UsageError
from fairkv_eval.headlines import NOTE, names_of, with_headlines, without_headlines

MOST = 8


def _results(metadata: dict[str, Any] | None = None) -> dict[str, Any]:
    entries = [
        {"metric": "good", "aggregation": "mean", "higher_is_better": True, "headline": True},
        {"metric": "bad", "aggregation": "mean", "higher_is_better": False, "headline": True},
        {"metric": "other", "aggregation": "mean"},
    ]
    metrics = {"good": 0.5, "bad": 0.25, "other": 0.125}
    values = {f"{name},none": value for name, value in metrics.items()}
    values |= {f"{name}_stderr,none": 0.01 for name in metrics}
    return {
        "results": {
            "all": {"alias": "all", **values},
            "one": {"alias": "one", **values},
            "plain": {"alias": "plain", **values},
        },
        "groups": {"all": {"alias": "all", **values}},
        "group_subtasks": {"all": ["one"]},
        "configs": {
            "one": {"metric_list": entries, "metadata": metadata},
            "plain": {"metric_list": [{"metric": "good"}]},
        },
        "versions": {},
        "n-shot": {},
        "higher_is_better": {"one": {"good": True, "bad": False}},
    }


def _rows(table: str) -> list[tuple[str, str]]:
    """The task and metric of each row; a task stands in its first row only."""
    rows, task = [], ""
    for line in table.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 4:
            task = cells[0].strip(" -") or task
            rows.append((task, cells[4]))
    return rows


def test_the_table_of_the_harness_shows_headlines() -> None:
    results = _results()
    before = copy.deepcopy(results)
    table = make_table(results)
    assert _rows(table) == [
        *(("all", name) for name in ("bad", "good")),
        *(("one", name) for name in ("bad", "good")),
        *(("plain", name) for name in ("bad", "good", "other")),
    ]
    assert table.endswith(f"\n{NOTE}")
    assert "↑" in table and "↓" in table and "0.01" in table
    assert results == before, "what is written to files holds all"
    assert _rows(make_table(results, "groups")) == [("all", "bad"), ("all", "good")]


def test_all_metrics_on_demand() -> None:
    table = make_table(_results({"metrics": "all"}))
    assert ("one", "other") in _rows(table) and NOTE not in table


def test_a_group_with_a_task_without_headlines_shows_all() -> None:
    results = _results()
    results["group_subtasks"]["all"] = ["one", "plain"]
    assert names_of(results, "all") == frozenset()
    assert with_headlines(results, "groups")[0]["groups"] == results["groups"]


@pytest.mark.parametrize("name", ["sys_ifeval_demo", "raccoon_demo", "sys_multi"])
def test_our_tasks_name_at_most_eight(name: str) -> None:
    config = manager().load([name])["tasks"][name].dump_config()
    names = names_of({"configs": {name: config}}, name)
    assert 0 < len(names - {"response_entropy"}) <= MOST  # that one is reported only where it is asked for
    assert "headline" not in str(without_headlines(config["metric_list"]))


def test_a_choice_of_metrics_other_than_all_is_refused() -> None:
    with pytest.raises(UsageError, match=r"metrics='some' is not allowed; it takes 'all'"):
        options({"metrics": "some"})
    assert options({"metrics": "all"}) == {}
