"""Parameters of a press: defaults, bounds, and every value that does not fit."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from press_table import press

from fairkv_eval import scores
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import budgets
from fairkv_eval.eviction.parameter import Parameter
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import accepted


class TestParameters:
    def test_defaults_are_filled_in(self) -> None:
        assert dict(press("snapkv").configure({})) == {"window": 64, "kernel": 5}
        assert dict(press("snapkv").configure({"window": 16})) == {"window": 16, "kernel": 5}
        assert press("tova").configure({}) == ()
        assert dict(press("kvzip").configure({"uniform": True})) == {
            "chunk": 2048,
            "uniform": True,
            "variant": "original",
        }

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


class TestTexts:
    def test_a_text_is_what_was_typed(self) -> None:
        text = Parameter(default="")
        typed = ["", "a b", "plus", 0.5, 3, [0.1, 0.25], (1, "b"), ["one"]]
        assert [text.check("p", "text", value) for value in typed] == [
            *("", "a b", "plus", "0.5", "3", "0.1+0.25", "1+b", "one")
        ]

    @pytest.mark.parametrize("value", [None, True, [], [None], [True], {}, "two\nlines", "\x1b[2J", ["a", "\n"]])
    def test_other_values_are_refused(self, value: object) -> None:
        with pytest.raises(UsageError) as error:
            Parameter(default="plain").check("p", "text", value)
        assert str(error.value) == (
            f"press 'p': text={value!r} is not allowed; it takes a printable text (default 'plain')"
        )

    def test_choices_name_the_nearest(self) -> None:
        variant = Parameter(default="plain", choices=("plain", "plus"))
        assert variant.check("p", "variant", "plus") == "plus"
        with pytest.raises(UsageError, match=r"unknown variant of press 'p' 'plsu'. Did you mean 'plus'\?"):
            variant.check("p", "variant", "plsu")

    def test_a_path_is_that_of_a_file(self, tmp_path: Path) -> None:
        path = Parameter(default="", path=True)
        assert path.check("p", "table", "") == ""
        assert path.check("p", "table", __file__) == __file__
        for missing in (str(tmp_path), "no/such.json"):
            with pytest.raises(UsageError) as error:
                path.check("p", "table", missing)
            assert str(error.value) == f"press 'p': table={missing!r} is not a file"


FILED = """press: filed
score: !function filed.rule
parameters:
  table: {default: "", path: true, help: a file}
  size: {default: 1}
"""


class TestFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "filed.yaml").write_text(FILED)
        (tmp_path / "filed.py").write_text(
            "def rule(layer, span, *, table, size):\n    return -layer.k.norm(dim=-1)[:, span.start : span.stop]\n"
        )
        (tmp_path / "table.json").write_text("[1]")
        return tmp_path

    def policy(self, folder: Path, **more: object) -> Policy:
        return Policy.of({"press": str(folder / "filed.yaml"), "ratio": 0.5, **more})

    def test_the_content_is_part_of_the_identity(self, folder: Path) -> None:
        table = folder / "table.json"
        first, without = self.policy(folder, table=str(table)), self.policy(folder)
        assert without.press is not None and without.press_digest == without.press.sha256
        assert first.describe()["press_sha256"] not in (without.press_digest, None)
        other = folder / "other" / "table.json"
        other.parent.mkdir()
        other.write_text("[1]")
        assert self.policy(folder, table=str(other)).describe() == first.describe()
        other.write_text("[2]")
        assert self.policy(folder, table=str(other)).press_digest != first.press_digest
        table.unlink()
        assert first.describe()["parameters"] == {"table": "table.json", "size": 1}  # as it was when it was read

    def test_no_machine_is_named_where_results_go(self, folder: Path) -> None:
        policy = self.policy(folder, table=str(folder / "table.json"))
        assert policy.label == "filed(size=1,table=table.json) ratio=0.5"
        assert policy.arguments()["table"] == str(folder / "table.json")
