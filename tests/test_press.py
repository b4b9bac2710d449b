"""Presses by name, by file and from outside the package; policies; and every way to get one wrong."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import pytest
import torch
from lm_eval.utils import simple_parse_args_string

from fairkv_eval.errors import UsageError
from fairkv_eval.evict import kept, n_kept, ranges
from fairkv_eval.policy import Policy
from fairkv_eval.press import Parameter, Press, built_in_presses, load_press, read_press
from fairkv_eval.resources import resource_dir
from fairkv_eval.scores import PROTECTED, Layer

README = (resource_dir("presses") / "README.md").read_text(encoding="utf-8")
PRESSES = {"streaming_llm", "snapkv", "h2o", "tova", "knorm", "random"}


def press(name: str) -> Press:
    found = load_press(name)
    assert found is not None
    return found


def make_layer(n: int) -> Layer:
    q, k, v = torch.randn(3, 4, n, 8, generator=torch.Generator().manual_seed(0))
    return Layer(q, k[:2], v[:2], 8**-0.5)


class TestBuiltIn:
    def test_these_and_no_others(self) -> None:
        assert {press.name for press in built_in_presses().values()} == PRESSES
        assert {path.stem for path in resource_dir("presses").glob("*.yaml")} == PRESSES

    @pytest.mark.parametrize("name", sorted(PRESSES))
    def test_says_what_it_is_and_scores(self, name: str) -> None:
        rule = press(name)
        assert rule.summary and rule.observes
        assert rule.paper.startswith("https://arxiv.org/abs/") or name == "random"
        assert all(parameter.help for parameter in rule.parameters.values())
        policy = Policy(rule, rule.configure({}), 0.5)
        spans = ranges([0, 7], 20)
        for span in spans:
            assert policy.scorer(make_layer(20))(span).shape == (2, len(span))

    def test_aliases(self) -> None:
        assert press("streamingllm") is press("streaming_llm")
        assert press("snap") is press("snapkv")
        assert press("observed_attention") is press("h2o")

    def test_none_is_no_press(self) -> None:
        assert load_press("none") is None

    @pytest.mark.parametrize(
        "name, nearest", [("snapvk", "snapkv"), ("tovaa", "tova"), ("streaming_lm", "streaming_llm")]
    )
    def test_an_unknown_name_names_the_nearest_and_all(self, name: str, nearest: str) -> None:
        with pytest.raises(UsageError) as error:
            load_press(name)
        assert f"unknown press '{name}'. Did you mean '{nearest}'?" in str(error.value)
        assert all(known in str(error.value) for known in (*PRESSES, "none"))

    def test_a_number_is_an_unknown_name(self) -> None:
        with pytest.raises(UsageError, match="unknown press '3'"):
            load_press(simple_parse_args_string("press=3")["press"])

    def test_the_readme_lists_them(self) -> None:
        rows = {row.split("`")[1]: row for row in README.splitlines() if row.startswith("| `")}
        assert rows.keys() == PRESSES
        for name, row in rows.items():
            rule = press(name)
            parameters = [f"{key}={value.default}" for key, value in rule.parameters.items()]
            assert re.findall(r"`([^`]+)`", row) == [name, *rule.aliases, *parameters]
            assert f"| {rule.summary} |" in row and f"| {rule.observes} |" in row and rule.paper in row


class TestParameters:
    def test_defaults_are_filled_in(self) -> None:
        assert dict(press("snapkv").configure({})) == {"window": 64, "kernel": 5}
        assert dict(press("snapkv").configure({"window": 16})) == {"window": 16, "kernel": 5}
        assert press("tova").configure({}) == ()

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

    def test_bounds_are_inclusive(self) -> None:
        share = Parameter(default=0.5, min=0, max=1)
        assert [share.check("p", "share", value) for value in (0, 0.3, 1)] == [0, 0.3, 1]
        for value in (-0.001, 1.001, math.nan, math.inf, True, "0.5"):
            with pytest.raises(UsageError, match=r"a number from 0 to 1 \(default 0\.5\)"):
                share.check("p", "share", value)


GOOD = "press: mine\nscore: !function fairkv_eval.scores.knorm\n"


class TestFiles:
    @pytest.mark.parametrize(
        "text, told",
        [
            ("press: [mine\nscore: x", "cannot be read"),
            ("", "cannot be read"),
            ("just words", "cannot be read"),
            ("- press: mine", "cannot be read"),
            (GOOD + "sumary: typing mistake\n", "unknown key 'sumary'. Did you mean 'summary'?"),
            ("press: mine\n", "the key 'score' is missing"),
            ("score: !function fairkv_eval.scores.knorm\n", "the key 'press' is missing"),
            ("press: mine\nscore: !function fairkv_eval.scores.knrom\n", "no function 'knrom'"),
            ("press: mine\nscore: !function no_such_module.rule\n", "no_such_module"),
            ("press: mine\nscore: !function rule\n", "no module path"),
            ("press: mine\nscore: !function fairkv_eval.scores.PROTECTED\n", "score must name a function"),
            ("press: mine\nscore: knorm\n", "score must name a function"),
            (GOOD + "parameters:\n  size: {default: 0, min: 1}\n", "size=0 is not allowed"),
            (GOOD + "parameters:\n  size: {default: 2, odd: true}\n", "size=2 is not allowed"),
            (GOOD + "parameters:\n  size: {default: many}\n", "size='many' is not allowed"),
            (GOOD + "parameters:\n  size: {min: 1}\n", "default"),
            (GOOD + "parameters:\n  size: {default: 1, minimum: 1}\n", "minimum"),
            (GOOD + "parameters:\n  size: 3\n", "mine.yaml"),
            (GOOD + "parameters: [size]\n", "mine.yaml"),
            (GOOD + "aliases: me\n", "aliases must be a list"),
            (GOOD + "parameters:\n  size: {default: 1}\n", "unexpected keyword argument 'size'"),
            ("press: mine\nscore: !function fairkv_eval.scores.snapkv\n", "missing a required argument: 'window'"),
        ],
    )
    def test_a_bad_file_is_one_error_that_names_it(self, text: str, told: str, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(UsageError) as error:
            load_press(str(path))
        assert str(path) in str(error.value) and told in str(error.value)

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"nowhere\.yaml' does not exist"):
            load_press(str(tmp_path / "nowhere.yaml"))

    def test_the_good_one_loads(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yml").write_text(GOOD)
        assert load_press(str(tmp_path / "mine.yml")) is not None


class TestFromOutside:
    """Exactly what presses/README.md tells a user to do."""

    @pytest.fixture
    def arguments(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
        """The two files of the README in a folder of their own; returns the model arguments of its command."""
        files = re.findall(r"`(my_\w+\.(?:yaml|py))`[^\n]*\n\n```\w+\n(.*?)```", README, flags=re.DOTALL)
        assert [name for name, _ in files] == ["my_press.yaml", "my_rules.py"]
        folder = tmp_path / "path" / "to"
        folder.mkdir(parents=True)
        for name, text in files:
            (folder / name).write_text(text)
        monkeypatch.chdir(tmp_path)
        (command,) = re.findall(r"^lm_eval --model fairkv --model_args (\S*my_press\S*)", README, flags=re.MULTILINE)
        return simple_parse_args_string(command)

    def test_plain_and_fair(self, arguments: dict[str, object]) -> None:
        rule = press(str(arguments["press"]))
        assert rule.name == "oldest" and rule.parameters["recent"].default == 2
        n, layer = 20, make_layer(20)
        budget = n_kept(n, float(str(arguments["ratio"])))
        results = {}
        for fair in (0.0, 1.0):
            policy = Policy(rule, rule.configure({"recent": arguments["recent"]}), 0.5, fair)
            results[fair] = kept(policy.scorer(layer), ranges([0, 8], n), budget, policy.fair, None).tolist()
        assert arguments["fair"] is True
        assert results[0.0] == [[0, 1, 2, 3, 4, 5, 16, 17, 18, 19]] * 2
        assert results[1.0] == [[4, 5, 6, 7, 8, 9, 16, 17, 18, 19]] * 2

    def test_its_parameters_are_checked_like_any_other(self, arguments: dict[str, object]) -> None:
        rule = press(str(arguments["press"]))
        with pytest.raises(UsageError, match=r"press 'oldest': recent=-1 is not allowed"):
            rule.configure({"recent": -1})
        assert (
            Policy(rule, rule.configure({}), 0.5).scorer(make_layer(3))(ranges([], 3)[0]).tolist()
            == [[3.0, PROTECTED, PROTECTED]] * 2
        )

    def test_a_change_of_the_function_is_seen(self, arguments: dict[str, object]) -> None:
        name = str(arguments["press"])
        press(name)
        rules = Path(name).with_name("my_rules.py")
        rules.write_text(rules.read_text().replace("def oldest", "def the_oldest"))
        with pytest.raises(UsageError, match="no function 'oldest'"):
            read_press(Path(name))


class TestPolicy:
    def test_the_default_evicts_nothing(self) -> None:
        assert not Policy().evicts and Policy().describe()["press"] == "none"

    @pytest.mark.parametrize("ratio", [1, 1.0, -0.1, 1.5, "a", "0.5", True, None, math.nan, math.inf])
    def test_a_ratio_that_cannot_be(self, ratio: object) -> None:
        with pytest.raises(
            UsageError, match=r"ratio=.* is not allowed; it takes a number from 0 up to, not including, 1"
        ):
            Policy(press("tova"), ratio=ratio)

    @pytest.mark.parametrize("fair", [2, -0.1, 1.01, "yes", True, None, math.nan])
    def test_a_fairness_that_cannot_be(self, fair: object) -> None:
        with pytest.raises(UsageError, match=r"fair=.* is not allowed; it takes a number from 0 to 1"):
            Policy(press("tova"), ratio=0.5, fair=fair)

    @pytest.mark.parametrize("fair", [0, 0.5, 1, 1.0])
    def test_what_can_be(self, fair: float) -> None:
        assert Policy(press("tova"), ratio=0.999, fair=fair).evicts

    def test_a_ratio_needs_a_press(self) -> None:
        with pytest.raises(UsageError, match=r"ratio=0\.5 needs a press.*knorm.*tova"):
            Policy(ratio=0.5)

    def test_ratio_zero_evicts_nothing(self) -> None:
        assert not Policy(press("tova"), ratio=0.0).evicts

    def test_equal_policies_are_equal_and_hash_alike(self) -> None:
        snapkv = press("snapkv")
        policy = Policy(snapkv, snapkv.configure({"window": 16}), 0.5, 1.0, ("defense",))
        same = Policy(press("snap"), press("snap").configure({"window": 16}), 0.5, 1.0, ("defense",))
        assert policy == same and hash(policy) == hash(same) and len({policy, same}) == 1
        for change in (
            {"ratio": 0.6},
            {"fair": 0.0},
            {"keep": ()},
            {"parameters": snapkv.configure({})},
            {"press": press("h2o")},
        ):
            assert dataclasses.replace(policy, **change) != policy

    def test_describes_itself_in_plain_values(self) -> None:
        snapkv = press("snapkv")
        assert Policy(snapkv, snapkv.configure({"window": 16}), 0.5, 1.0, ("defense",)).describe() == {
            "press": "snapkv",
            "press_sha256": snapkv.sha256,
            "parameters": {"window": 16, "kernel": 5},
            "ratio": 0.5,
            "fair": 1.0,
            "keep": ["defense"],
        }

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Policy().ratio = 0.5  # type: ignore[misc]


def test_an_edited_rule_has_another_digest(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("press: mine\nscore: !function rules_of_mine.rule\n")
    code = tmp_path / "rules_of_mine.py"
    code.write_text("def rule(layer, span):\n    return -layer.k.norm(dim=-1)\n")
    before = load_press(str(tmp_path / "mine.yaml"))
    code.write_text("def rule(layer, span):\n    return layer.k.norm(dim=-1)\n")
    assert load_press(str(tmp_path / "mine.yaml")).sha256 != before.sha256
