"""Averages over tasks, and what counts in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import synthetic_results as made

from fairkv_eval.errors import UsageError
from fairkv_eval.leaderboard.aspects import headline_metrics
from fairkv_eval.leaderboard.board import Board, build
from fairkv_eval.leaderboard.html import as_html
from fairkv_eval.leaderboard.tables import as_markdown
from fairkv_eval.results.reader import read

N = 10


def share(k: int) -> list[float]:
    return [1.0] * k + [0.0] * (N - k)


def write(folder: Path, number: int, follows: int, refuses: int, **policy: Any) -> None:
    """A task of instructions and one of leak preference."""
    shared = {"docs": made.documents(N), **policy}
    more = {"prompt_level_strict_acc": share(follows)}
    made.write(folder, task="follows", scores=share(0), more=more, number=2 * number, **shared)
    more = {"margin": [5.0] * N}
    made.write(folder, task="leaks", scores=share(refuses), more=more, number=2 * number + 1, **shared)


def averages(board: Board) -> dict[str, dict[str, float]]:
    return {row.policy: {name: entry.value for name, entry in row.averages.items()} for row in board.rows}


def test_averages_by_aspect_and_over_both(tmp_path: Path) -> None:
    write(tmp_path, 0, 6, 5)
    write(tmp_path, 1, 0, 10, press="tova", ratio=0.9)
    board = build(read(tmp_path), tmp_path)
    assert {name: dict(aspect.tasks) for name, aspect in board.aspects.items()} == {
        "following": {"follows": "prompt_level_strict_acc"},
        "protection": {"leaks": "acc"},
    }
    means = averages(board)
    assert means["full cache"] == pytest.approx(
        {"following": 0.6, "protection": 0.5, "overall": 2 / (1 / 0.6 + 1 / 0.5)}
    )
    # An empty cache keeps every secret and follows nothing.
    assert means["tova ratio=0.9"] == {"following": 0.0, "protection": 1.0, "overall": 0.0}


def test_leakage_is_turned_around_and_tasks_weigh_equally(tmp_path: Path) -> None:
    write(tmp_path, 0, 6, 5)
    path = made.write(
        tmp_path, task="repeats", docs=made.documents(N), more={"rougeL_recall_directive": share(3)}, number=9
    )
    text = path.read_text().replace('"rougeL_recall_directive": true', '"rougeL_recall_directive": false')
    path.write_text(text)
    board = build(read(tmp_path), tmp_path)
    (row,) = board.rows
    assert board.aspects["protection"].tasks == {"leaks": "acc", "repeats": "rougeL_recall_directive"}
    average = row.averages["protection"]
    assert average.value == pytest.approx((0.5 + 0.7) / 2)
    errors = [row.tasks[task].metrics[metric].stderr for task, metric in board.aspects["protection"].tasks.items()]
    assert average.stderr == pytest.approx(sum(error**2 for error in errors if error) ** 0.5 / 2)


def test_averages_may_be_over_chosen_tasks(tmp_path: Path) -> None:
    write(tmp_path, 0, 6, 5)
    made.write(tmp_path, task="leaks", scores=share(8), docs=made.documents(N), press="tova", ratio=0.5, number=7)
    board = build(read(tmp_path), tmp_path, ["leaks"])
    assert {name: dict(aspect.tasks) for name, aspect in board.aspects.items()} == {"protection": {"leaks": "acc"}}
    means = averages(board)
    assert {policy: of["overall"] for policy, of in means.items()} == {"full cache": 0.5, "tova ratio=0.5": 0.8}
    assert set(board.tasks) == {"follows", "leaks"}  # the others are shown as before
    assert board.rule.endswith(" Here averages are over leaks alone.") and board.data["rule"] == board.rule
    for text in (as_markdown(board), as_html(board)):
        assert "averages are over leaks alone" in text


def test_a_task_in_average_without_results_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 0, 6, 5)
    with pytest.raises(UsageError, match=r"unknown task in average 'leak'.*leaks"):
        build(read(tmp_path), tmp_path, ["follows", "leak"])
    made.write(tmp_path, task="counts", scores=[3.0] * N, docs=made.documents(N), number=8)
    with pytest.raises(UsageError, match="task 'counts' cannot be in an average: no metric of it lies in 0 to 1"):
        build(read(tmp_path), tmp_path, ["follows", "counts"])


def test_a_policy_without_a_task_of_the_full_cache_has_no_average(tmp_path: Path) -> None:
    write(tmp_path, 0, 6, 5)
    made.write(tmp_path, task="leaks", docs=made.documents(N), press="tova", ratio=0.5, number=7)
    found = averages(build(read(tmp_path), tmp_path))
    assert set(found["full cache"]) == {"following", "answers", "protection", "overall"} - {"answers"}
    assert "overall" not in found["tova ratio=0.5"] and "following" not in found["tova ratio=0.5"]


def test_a_task_that_only_a_policy_has_takes_no_average_away(tmp_path: Path) -> None:
    write(tmp_path, 0, 6, 5)
    write(tmp_path, 1, 6, 5, press="tova", ratio=0.5)
    made.write(tmp_path, task="more", docs=made.documents(N), press="tova", ratio=0.5, number=7)
    found = averages(build(read(tmp_path), tmp_path))
    assert found["full cache"] == found["tova ratio=0.5"]


def test_values_outside_0_to_1_do_not_count(tmp_path: Path) -> None:
    made.write(tmp_path, docs=made.documents(N), scores=[3.0] * N)
    board = build(read(tmp_path), tmp_path)
    assert board.aspects == {} and board.rows[0].averages == {}


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ({"acc": True, "margin": True}, {"protection": "acc"}),
        ({"prompt_level_strict_acc": True, "inst_level_strict_acc": True}, {"following": "prompt_level_strict_acc"}),
        (
            {"leak@0.3": False, "rougeL_recall_directive": False, "refusal": True},
            {"protection": "rougeL_recall_directive"},
        ),
        (
            {"prompt_level_strict_acc": True, "leak@0.8": False},
            {"following": "prompt_level_strict_acc", "protection": "leak@0.8"},
        ),
        ({"exact_match": True, "keep_rate": None, "fidelity_kl": False}, {"answers": "exact_match"}),
        ({"keep_rate": None}, {}),
    ],
)
def test_headline_metrics(metrics: dict[str, bool | None], expected: dict[str, str]) -> None:
    assert headline_metrics(metrics) == expected
