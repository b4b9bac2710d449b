"""Parameters of a press: defaults, bounds, and every value that does not fit."""

from __future__ import annotations

import math

import pytest
from press_table import press

from fairkv_eval import scores
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import budgets
from fairkv_eval.eviction.press import Parameter, accepted


class TestParameters:
    def test_defaults_are_filled_in(self) -> None:
        assert dict(press("snapkv").configure({})) == {"window": 64, "kernel": 5}
        assert dict(press("snapkv").configure({"window": 16})) == {"window": 16, "kernel": 5}
        assert press("tova").configure({}) == ()
        assert dict(press("kvzip").configure({"uniform": True})) == {"chunk": 2048, "uniform": True}

    def test_an_unknown_one_names_the_nearest(self) -> None:
        with pytest.raises(
            UsageError, match=r"unknown parameter of press 'snapkv' 'windows'.*'window'\?.*kernel, window"
        ):
            press("snapkv").configure({"windows": 16})
        with pytest.raises(UsageError, match=r"unknown parameter of press 'tova' 'window'\. Allowed: none"):
            press("tova").configure({"window": 16})

    @pytest.mark.parametrize("value", [0, -1, 2.5, 16.0, "16", True, None, math.nan])
    def test_a_value_that_does_not_fit_names_what_does(self, value: object) -> None:
        with pytest.raises(UsageError) as error:
            press("snapkv").configure({"window": value})
        assert f"window={value!r}" in str(error.value)
        assert "'snapkv'" in str(error.value) and "a whole number from 1 (default 64)" in str(error.value)

    @pytest.mark.parametrize("value", [0, 4])
    def test_a_kernel_has_a_centre(self, value: int) -> None:
        with pytest.raises(UsageError, match=r"kernel=\d .*an odd whole number from 1 \(default 5\)"):
            press("snapkv").configure({"kernel": value})

    @pytest.mark.parametrize("default", [True, False])
    def test_a_switch_is_true_or_false(self, default: bool) -> None:
        switch = Parameter(default=default)
        assert [switch.check("p", "switch", value) for value in (True, False)] == [True, False]
        for value in (0, 1, 0.0, "true", "False", None, math.nan):
            with pytest.raises(UsageError) as error:
                switch.check("p", "switch", value)
            assert str(error.value) == (
                f"press 'p': switch={value!r} is not allowed; it takes true or false (default {default})"
            )

    def test_a_function_is_given_what_it_names(self) -> None:
        parameters = press("pyramidkv").configure({"window": 8})
        assert accepted(scores.snapkv, parameters) == {"window": 8, "kernel": 5}
        assert accepted(budgets.pyramidkv, parameters) == {"window": 8, "beta": 20}
        assert accepted(scores.tova, parameters) == {}

    def test_bounds_are_inclusive(self) -> None:
        share = Parameter(default=0.5, min=0, max=1)
        assert [share.check("p", "share", value) for value in (0, 0.3, 1)] == [0, 0.3, 1]
        for value in (-0.001, 1.001, math.nan, math.inf, True, "0.5"):
            with pytest.raises(UsageError, match=r"a number from 0 to 1 \(default 0\.5\)"):
                share.check("p", "share", value)
