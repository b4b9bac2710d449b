"""The error for a name that does not exist."""

from __future__ import annotations

import pytest

from fairkv_eval.errors import DataError, RequestError, UsageError, naming, unknown


def test_few_names_are_all_listed_after_the_nearest() -> None:
    assert str(unknown("press", "tovva", ["knorm", "tova"])) == (
        "unknown press 'tovva'. Did you mean 'tova'? Allowed: knorm, tova."
    )
    assert str(unknown("press", "x", [])) == "unknown press 'x'. Allowed: none."


def test_of_thousands_the_nearest_and_where_all_are() -> None:
    names = [f"task_{number:05}" for number in range(14_000)] + ["sys_ifeval", "sys_ifeval_defended"]
    message = str(unknown("task", "sys_ifevall", names, listed_by="lm_eval ls tasks"))
    assert message == (
        "unknown task 'sys_ifevall'. Did you mean 'sys_ifeval'? Also near: sys_ifeval_defended. "
        "14,002 names are allowed; 'lm_eval ls tasks' lists them."
    )
    assert str(unknown("task", "###", names)) == "unknown task '###'. 14,002 names are allowed."


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (UsageError("oh"), UsageError("row 3: oh")),
        (DataError("oh"), DataError("row 3: oh")),
        (OSError("oh"), RequestError("row 3: reading failed: oh")),
    ],
)
def test_every_error_begins_with_its_label(raised: Exception, named: Exception) -> None:
    with pytest.raises(type(named)) as caught, naming("row 3", "reading failed: "):
        raise raised
    assert str(caught.value) == str(named)
    assert caught.value.__cause__ is raised
