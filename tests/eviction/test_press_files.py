"""Presses by name, by file and from outside the package; wrappers; and every way to get one wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lm_eval.utils import simple_parse_args_string
from press_table import NAMES, OWN, WRAPPERS, press
from press_table import policy as table_policy
from scores_by_loops import output_of

from fairkv_eval import scores
from fairkv_eval.attention.rotation import Rotation
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction import budgets, replays
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import built_in_presses, load_press, read_press
from fairkv_eval.eviction.quotas import choose, n_kept, ranges
from fairkv_eval.files import resource_dir
from fairkv_eval.scores import PROTECTED, Layer

README = (resource_dir("presses") / "README.md").read_text(encoding="utf-8")


GOOD = "press: mine\nscore: !function fairkv_eval.scores.knorm\n"
WRAPPER = "press: mine\nbase: lagkv\n"


def make_layer(n: int) -> Layer:
    q, k, v = torch.randn(3, 4, n, 8, generator=torch.Generator().manual_seed(0))
    rotation = Rotation("half", torch.tensor([1.0, 0.3, 0.1, 0.03]))
    received = v[:, :, 0].sigmoid()
    seen = {"rotation": rotation, "replayed": received[2:], "output": output_of(4, 8)}
    return Layer(q, k[:2], v[:2], 8**-0.5, replayed_by_query_head=received, **seen)


class TestBuiltIn:
    def test_these_and_no_others(self) -> None:
        assert {press.name for press in built_in_presses().values()} == {*NAMES}
        assert {path.stem for path in resource_dir("presses").glob("*.yaml")} == {*NAMES}

    @pytest.mark.parametrize("name", sorted(NAMES))
    def test_says_what_it_is_and_scores(self, name: str) -> None:
        rule = press(name)
        assert rule.summary and rule.observes
        assert rule.paper.startswith("https://arxiv.org/abs/") or name in ("random", "layer_ratios")
        assert all(parameter.help for parameter in rule.parameters.values())
        policy = table_policy(name)
        spans = ranges([0, 7], 20)
        for span in spans:
            assert policy.scorer(make_layer(20))(span).shape == (2, len(span))

    def test_these_observe_attention_while_decoding(self) -> None:
        assert {press.name for press in built_in_presses().values() if press.collects} == {"h2o"}
        assert {press.name for press in built_in_presses().values() if press.replay} == {"finch", "kvcompose", "kvzip"}
        statistics = {press.name for press in built_in_presses().values() if press.statistics}
        assert statistics == {"duo_attention", "expected_attention_stats", "qfilter"}

    def test_aliases(self) -> None:
        assert press("streamingllm") is press("streaming_llm")
        assert press("snap") is press("snapkv")
        assert press("observed_attention") is press("h2o")
        assert press("pyramid") is press("pyramidkv")

    def test_none_is_no_press(self) -> None:
        assert load_press("none") is None

    @pytest.mark.parametrize(
        "name, nearest", [("snapvk", "snapkv"), ("tovaa", "tova"), ("streaming_lm", "streaming_llm")]
    )
    def test_an_unknown_name_names_the_nearest_and_all(self, name: str, nearest: str) -> None:
        with pytest.raises(UsageError) as error:
            load_press(name)
        assert f"unknown press '{name}'. Did you mean '{nearest}'?" in str(error.value)
        assert all(known in str(error.value) for known in (*NAMES, "none"))

    def test_a_number_is_an_unknown_name(self) -> None:
        with pytest.raises(UsageError, match="unknown press '3'"):
            load_press(simple_parse_args_string("press=3")["press"])


class TestFiles:
    @pytest.mark.parametrize(
        "text, message",
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
            (GOOD + "parameters:\n  size: {default: [1]}\n", "size=[1] is not allowed"),
            (GOOD + "parameters:\n  size: {default: many}\n", "no function of the press takes the parameter 'size'"),
            (GOOD + "parameters:\n  size: {default: many, min: 1}\n", "'many', and texts have no min"),
            (GOOD + "parameters:\n  size: {default: 3, path: true}\n", "3, and numbers have no path"),
            (GOOD + "parameters:\n  size: {default: a, choices: b}\n", "choices of parameter 'size' must be a list"),
            (GOOD + "parameters:\n  size: {default: a, choices: [b]}\n", "unknown size of press 'mine' 'a'"),
            (GOOD + "parameters:\n  size: {default: a, path: 3}\n", "path of parameter 'size' takes true or false"),
            (GOOD + "parameters:\n  size: {min: 1}\n", "default"),
            (GOOD + "parameters:\n  size: {default: 1, minimum: 1}\n", "minimum"),
            (GOOD + "parameters:\n  size: 3\n", "mine.yaml"),
            (GOOD + "parameters: [size]\n", "mine.yaml"),
            (GOOD + "parameters:\n  size: {default: 1, min: low}\n", "min of parameter 'size' must be a number"),
            (GOOD + "parameters: [size]\n", "parameters must be a mapping"),
            (GOOD + "aliases: me\n", "aliases must be a list"),
            (GOOD + "collects:\n", "collects must be true or false"),
            ("press: mine\nscore: !function torch.nn.functional.relu_\n", "score has no arguments that can be read"),
            (GOOD + "parameters:\n  size: {default: 1}\n", "no function of the press takes the parameter 'size'"),
            ("press: mine\nscore: !function fairkv_eval.scores.snapkv\n", "missing a required argument: 'window'"),
            (GOOD + "budget: even\n", "budget must name a function (budget: !function module.function), not 'even'"),
            (GOOD + "budget: 100\n", "budget must name a function"),
            (GOOD + "replay: !function fairkv_eval.scores.PROTECTED\n", "replay must name a function"),
            (GOOD + "decode: knorm\n", "decode must name a function"),
            (GOOD + "decode:\n", "decode must name a function"),
            (GOOD + "budgets: 3\n", "unknown key 'budgets'. Did you mean 'budget'?"),
            (GOOD + "collect: true\n", "unknown key 'collect'. Did you mean 'collects'?"),
            (
                GOOD + "budget: !function fairkv_eval.eviction.budgets.pyramidkv\n",
                "missing a required argument: 'window'",
            ),
            (GOOD + "decode: !function fairkv_eval.scores.h2o_decoding\n", "missing a required argument: 'recent'"),
            (GOOD + "replay: !function fairkv_eval.eviction.replays.kvzip\n", "missing a required argument: 'chunk'"),
            (GOOD + "receives: mean\n", "receives says what keys get from a replay, and the press has no replay"),
            (GOOD + "receives: maen\n", "unknown receives 'maen'. Did you mean 'mean'?"),
            (GOOD + "base: snapkv\n", "unexpected keyword argument 'base'"),  # the rule of a press that wraps nothing
            ("press: mine\nscore: !function fairkv_eval.scores.chunkkv\n", "missing a required argument"),
            ("base: snapkv\n", "the key 'press' is missing"),
            (WRAPPER + "parameters:\n  lag: {default: 3}\n", "no function of the press takes the parameter 'lag'"),
        ],
    )
    def test_a_bad_file_is_one_error_that_names_it(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(UsageError) as error:
            load_press(str(path))
        assert str(path) in str(error.value) and message in str(error.value)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (GOOD.replace("press: mine", "press: none"), "'none' cannot be a press's name"),
            (GOOD + "aliases: [none]\n", "'none' cannot be a press's name"),
            (GOOD + "aliases: ['kvpress:Knorm']\n", "cannot be a press's name"),
            (GOOD + "aliases: ['a,ratio=0.9']\n", "cannot be a press's name"),
            (GOOD + "aliases: [tova]\n", "the alias 'tova' is a name of the built-in press 'tova'"),
            (GOOD + "aliases: [snap]\n", "the alias 'snap' is a name of the built-in press 'snapkv'"),
            (GOOD + "aliases: [3]\n", "aliases must be names, not 3"),
            (GOOD + "aliases: false\n", "aliases must be a list, not False"),
            (GOOD + "parameters: []\n", "parameters must be a mapping, not []"),
            (GOOD + "summary: [a]\n", "summary must be a text"),
            (GOOD + "cost: cheap\n", "unknown cost 'cheap'. Allowed: O(n), O(n²), free"),
            (GOOD + "sets_amount: 1\n", "sets_amount must be true or false, not 1"),
            (GOOD + "collects: yes\n", "collects must be true or false, not 'yes'"),
            (GOOD + "press: tova\n", "the key 'press' is given twice"),
            (GOOD + "parameters:\n  size: {default: .nan}\n", "default of parameter 'size' must be a finite number"),
            (
                GOOD + "parameters:\n  size: {default: 1, max: .inf}\n",
                "max of parameter 'size' must be a finite number",
            ),
            (
                GOOD + "parameters:\n  size: {default: 1, min: true}\n",
                "min of parameter 'size' must be a number, not True",
            ),
            (GOOD + "parameters:\n  size: {default: 1, odd: 3}\n", "odd of parameter 'size' takes true or false"),
        ],
    )
    def test_a_name_or_value_with_another_meaning_is_refused(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        with pytest.raises(UsageError) as error:
            load_press(str(path))
        assert str(path) in str(error.value) and message in str(error.value)

    @pytest.mark.parametrize("paper", ["2406.12330", "'2406.12330'", "https://arxiv.org/abs/2406.12330"])
    def test_a_paper_is_a_text_also_without_quotes(self, paper: str, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(f"{GOOD}paper: {paper}\n")
        assert press(str(tmp_path / "mine.yaml")).paper == "https://arxiv.org/abs/2406.12330"

    def test_a_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"nowhere\.yaml' does not exist"):
            load_press(str(tmp_path / "nowhere.yaml"))

    def test_the_good_one_loads(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yml").write_text(GOOD)
        assert load_press(str(tmp_path / "mine.yml")) is not None

    def test_every_key_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(
            "press: mine\nscore: !function fairkv_eval.scores.kvzip\n"
            "budget: !function fairkv_eval.eviction.budgets.kvzip\n"
            "replay: !function fairkv_eval.eviction.replays.kvzip\ndecode: !function fairkv_eval.scores.h2o_decoding\n"
            "collects: true\nparameters:\n  chunk: {default: 9}\n  uniform: {default: true}\n  recent: {default: 0.5}\n"
        )
        mine = press(str(tmp_path / "mine.yaml"))
        assert (mine.score, mine.budget, mine.replay, mine.decode) == (
            scores.kvzip,
            budgets.kvzip,
            replays.kvzip,
            scores.h2o_decoding,
        )
        assert mine.collects and dict(mine.configure({})) == {"chunk": 9, "uniform": True, "recent": 0.5}
        assert mine.division(mine.configure({})).pooled == "layer"

    @pytest.mark.parametrize(
        "text, message",
        [
            pytest.param(
                "press: mine\nbase:\n",
                "base",
            ),
            pytest.param(
                GOOD + "collects: maybe\n",
                "collects",
            ),
            pytest.param(
                "press:\nscore: !function fairkv_eval.scores.knorm\n",
                "press",
            ),
        ],
    )
    def test_a_value_that_says_nothing_is_an_error(self, text: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(text)
        with pytest.raises(UsageError, match=rf"mine\.yaml.*{message}"):
            load_press(str(tmp_path / "mine.yaml"))


class TestWrappers:
    def test_wrap_snapkv_unless_told(self) -> None:
        assert {press.name for press in built_in_presses().values() if press.default_base} == {*WRAPPERS}
        for name in WRAPPERS:
            base = {"threshold": "knorm", "blockwise": "keydiff"}.get(name, "snapkv")
            wrapped = press(name)
            assert wrapped.base is press(base) and wrapped.default_base is None
            assert press(name, base) == wrapped and press(name, "snapkv") == press(name, "snap")
            assert built_in_presses()[name].base is None  # what is built in is not changed

    @pytest.mark.parametrize("base", sorted({*NAMES} - {*WRAPPERS, *OWN, "finch", "kvcompose", "kvzip"}))
    @pytest.mark.parametrize("name", sorted(WRAPPERS))
    def test_wrap_any_that_scores_a_prefill(self, name: str, base: str) -> None:
        if base in built_in_presses()[name].refuses:
            pytest.skip("refused by name")
        wrapped, inner = press(name, base), press(base)
        wrapper_parameters = built_in_presses()[name].parameters
        assert dict(wrapped.parameters) == {**wrapper_parameters, **inner.parameters}
        layer, span = make_layer(20), replace(ranges([0, 7], 20)[1], budget=6)
        worth = inner.scorer(layer, inner.configure({}))(span)
        parameters = dict(press(name).configure({}))
        if name == "threshold":
            assert wrapped.scorer(layer, wrapped.configure({}))(span).isinf().all()  # the last 128 are protected
            assert torch.equal(wrapped.scorer(layer, wrapped.configure({"protect": 0}))(span), worth)
            return
        if name == "blockwise":
            roomy = replace(span, budget=len(span))  # nothing is ever evicted
            worth = inner.scorer(layer, inner.configure({}))(roomy)
            assert torch.equal(wrapped.scorer(layer, wrapped.configure({}))(roomy), worth)
            return
        expected = {
            "chunkkv": lambda: scores.chunkkv(layer, span, lambda _: worth, chunk=parameters["chunk"]),
            "criticalkv": lambda: scores.criticalkv(
                layer, span, lambda _: worth, **{key: parameters[key] for key in wrapper_parameters}
            ),
        }.get(name, lambda: worth)()  # the others have no rule of their own
        assert torch.equal(wrapped.scorer(layer, wrapped.configure({}))(span), expected)

    def test_parameters_of_both_are_told_and_checked(self) -> None:
        wrapped = press("adakv", "streaming_llm")
        assert dict(wrapped.configure({"sinks": 1, "safeguard": 0.5})) == {"sinks": 1, "safeguard": 0.5}
        layer, span = make_layer(5), ranges([], 5)[0]
        assert wrapped.scorer(layer, wrapped.configure({"sinks": 1}))(span).tolist() == [[PROTECTED, 1, 2, 3, 4]] * 2
        with pytest.raises(UsageError, match=r"unknown parameter of press 'adakv' 'window'.*safeguard, sinks"):
            wrapped.configure({"window": 16})

    def test_budgets_come_from_both(self) -> None:
        both = press("adakv", "pyramidkv")
        division = both.division(both.configure({"window": 1, "safeguard": 0.5}))
        assert division.layers(1000, 100, 3, 0) == [195, 100, 5]
        assert (division.pooled, division.safeguard) == ("layer", 0.5)
        chunks = press("chunkkv", "pyramidkv")
        assert chunks.division(chunks.configure({"window": 1})).layers(1000, 100, 3, 0) == [195, 100, 5]

    @pytest.mark.parametrize(
        "name, base", [("adakv", None), ("adakv", "knorm"), ("chunkkv", "tova"), ("snapkv", None), ("kvzip", None)]
    )
    def test_the_same_one_loaded_twice_is_equal(self, name: str, base: str | None) -> None:
        assert press(name, base) == press(name, base) and hash(press(name, base)) == hash(press(name, base))

    def test_another_base_is_another_press(self) -> None:
        pairs = [(name, base) for name in WRAPPERS for base in ("snapkv", "knorm", "tova")]
        assert len({press(*pair) for pair in pairs}) == len({press(*pair).sha256 for pair in pairs}) == len(pairs)
        assert all(press(*pair).sha256 != press(pair[1]).sha256 for pair in pairs)

    def test_files_wrap_and_are_wrapped(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(GOOD)
        (tmp_path / "around.yaml").write_text("press: around\nbase: knorm\n")
        mine, around = str(tmp_path / "mine.yaml"), str(tmp_path / "around.yaml")
        layer, span = make_layer(9), ranges([], 9)[0]
        worth = scores.knorm(layer, span)
        for wrapped in (press("adakv", mine), press(around), press(around, mine), press(around, "knorm")):
            assert torch.equal(wrapped.scorer(layer, wrapped.configure({}))(span), worth)
        assert press(around, mine).base == press(mine) == press(mine)
        assert press(around, mine) == press(around, mine) != press(around)

    def test_both_may_not_have_a_parameter_of_one_name(self, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(
            "press: mine\nbase: snapkv\nscore: !function mine.rule\nparameters:\n  window: {default: 1}\n"
        )
        (tmp_path / "mine.py").write_text("def rule(layer, span, base, *, window):\n    return base(span)\n")
        with pytest.raises(UsageError, match="press 'mine' cannot wrap 'snapkv': both have a parameter 'window'"):
            load_press(str(tmp_path / "mine.yaml"))
        assert press(str(tmp_path / "mine.yaml"), "knorm").base is press("knorm")

    @pytest.mark.parametrize(
        "base, message",
        [
            ("adakv", "press 'mine' cannot wrap 'adakv', which is a wrapper itself"),
            ("kvzip", "press 'mine' cannot wrap 'kvzip': it scores by a replay"),
            ("none", "press 'mine' needs a press that scores: base=<press>"),
            ("knrom", "unknown press 'knrom'. Did you mean 'knorm'?"),
        ],
    )
    def test_a_file_whose_base_cannot_be(self, base: str, message: str, tmp_path: Path) -> None:
        (tmp_path / "mine.yaml").write_text(f"press: mine\nbase: {base}\n")
        with pytest.raises(UsageError) as error:
            load_press(str(tmp_path / "mine.yaml"))
        assert message in str(error.value)


class TestFromOutside:
    """Exactly what presses/README.md tells a user to do."""

    @pytest.fixture
    def arguments(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
        """The two files of the README in a folder of their own; returns the model arguments of its command."""
        files = re.findall(r"`(my_\w+\.(?:yaml|py))`[^\n]*\n\n```\w+[^\n]*\n(.*?)```", README, flags=re.DOTALL)
        assert [name for name, _ in files] == ["my_press.yaml", "my_rules.py", "my_attention.yaml", "my_attention.py"]
        for name, text in files:
            (tmp_path / name).write_text(text)
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
            results[fair] = choose(policy.scorer(layer), ranges([0, 8], n), budget, policy.fair, None).tolist()
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
