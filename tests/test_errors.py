"""What a name that does not exist is told."""

from __future__ import annotations

from fairkv_eval.errors import unknown


def test_few_names_are_all_listed_after_the_nearest() -> None:
    assert str(unknown("press", "tovva", ["knorm", "tova"])) == (
        "unknown press 'tovva'. Did you mean 'tova'? Allowed: knorm, tova."
    )
    assert str(unknown("press", "x", [])) == "unknown press 'x'. Allowed: none."


def test_of_thousands_the_nearest_and_where_all_are() -> None:
    names = [f"task_{number:05}" for number in range(14_000)] + ["sys_ifeval", "sys_ifeval_defended"]
    told = str(unknown("task", "sys_ifevall", names, listed_by="lm_eval ls tasks"))
    assert told == (
        "unknown task 'sys_ifevall'. Did you mean 'sys_ifeval'? Also near: sys_ifeval_defended. "
        "14,002 names are allowed; 'lm_eval ls tasks' lists them."
    )
    assert str(unknown("task", "###", names)) == "unknown task '###'. 14,002 names are allowed."
