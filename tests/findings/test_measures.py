"""Which metrics of which tasks stand for following and for leakage, and which of them decides."""

from __future__ import annotations

from made_cells import FULL, model_cells, task_cells

from fairkv_eval.findings.measures import following, leakage


def test_the_papers_tasks_and_metrics_come_first():
    names = ("raccoon_base64", "raccoon_plain", "raccoon_flipped_defense", "raccoon_preference")
    leaks = {"refusal": [1.0], "leak@0.3": [0.0]}
    tables = {name: leaks if name != "raccoon_preference" else {"acc": [1.0], "margin": [0.3]} for name in names}
    follows = {"prompt_level_strict_acc": [1.0]}
    tables |= {name: follows for name in ("sys_ifeval", "sys_ifeval_defended", "sys_ifeval_flipped", "sys_multi")}
    model = model_cells(*(task_cells(name, {FULL: table}) for name, table in tables.items()))
    assert [(m.cells.task, m.metric, m.better) for m in leakage(model)] == [
        ("raccoon_plain", "leak@0.3", -1),
        ("raccoon_base64", "leak@0.3", -1),
        ("raccoon_plain", "refusal", 1),
        ("raccoon_base64", "refusal", 1),
        ("raccoon_preference", "acc", 1),
    ]
    assert [m.cells.task for m in following(model)] == ["sys_ifeval_defended", "sys_ifeval", "sys_multi"]
    assert [m.cells.task for m in following(model, flipped=True)] == ["sys_ifeval_flipped"]


def test_an_accuracy_without_a_margin_is_no_refusal():
    model = model_cells(task_cells("arc_easy", {FULL: {"acc": [1.0]}}))
    assert not list(leakage(model)) and not list(following(model))
