"""The class of an instruction, and means by class."""

from __future__ import annotations

import pytest

from fairkv_eval.instruction_classes import by_class, class_of


def test_the_class_is_what_stands_before_the_colon() -> None:
    assert [class_of(name) for name in ("keywords:existence", "a:b:c", "plain")] == ["keywords", "a", "plain"]


def test_means_by_class_of_verdicts_and_of_rates() -> None:
    ids = ["a:x", "b:x", "a:y", "a:z"]
    assert by_class(ids, [True, False, False, True]) == {"a": 2 / 3, "b": 0.0}
    assert by_class(ids, [0.1, 0.5, 0.2, 0.3]) == {"a": pytest.approx(0.2), "b": 0.5}
    assert by_class([], []) == {}
    with pytest.raises(ValueError, match="shorter"):
        by_class(ids, [True])
