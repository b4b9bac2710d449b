"""Policies: what they hold, when two are the same, and one clear error for every combination that cannot be."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from press_table import OWN, PRESSES, WRAPPERS
from press_table import policy as table_policy

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press import Press
from fairkv_eval.eviction.press_files import built_in_presses, load_press

DECODING = ("h2o", "keydiff", "knorm", "qfilter", "streaming_llm", "tova")
UNEVEN = [("pyramidkv", {}), ("adakv", {}), ("adakv", {"safeguard": 1}), ("kvzip", {}), ("kvzip", {"uniform": True})]


def press(name: str, base: str | None = None) -> Press:
    found = load_press(name, base)
    assert found is not None
    return found


def policy(name: str, base: str | None = None, parameters: dict[str, Any] | None = None, **settings: Any) -> Policy:
    rule = press(name, base)
    return Policy(rule, rule.configure(parameters or {}), **settings)


class TestPolicy:
    def test_the_default_evicts_nothing(self) -> None:
        assert not Policy().evicts and Policy().describe()["press"] == "none"

    @pytest.mark.parametrize("ratio", [1, 1.0, -0.1, 1.5, "a", "0.5", True, None, math.nan, math.inf])
    def test_a_ratio_that_cannot_be(self, ratio: Any) -> None:
        with pytest.raises(UsageError, match=r"ratio=.* is not allowed; it takes a number from 0 to below 1"):
            Policy(press("tova"), ratio=ratio)

    @pytest.mark.parametrize("fair", [2, -0.1, 1.01, "yes", True, None, math.nan])
    def test_a_fairness_that_cannot_be(self, fair: Any) -> None:
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
            {"ratio": 0.0, "budget": 7},
            {"positions": "contiguous"},
            {"kv_bits": 4},
        ):
            assert dataclasses.replace(policy, **change) != policy

    def test_wrappers_that_are_loaded_twice_make_equal_policies(self) -> None:
        assert policy("adakv", ratio=0.5) == policy("adakv", "snapkv", ratio=0.5)
        assert len({policy("adakv", ratio=0.5), policy("adakv", ratio=0.5), policy("adakv", "knorm", ratio=0.5)}) == 2

    def test_describes_itself_in_plain_values(self) -> None:
        snapkv = press("snapkv")
        assert Policy(snapkv, snapkv.configure({"window": 16}), 0.5, 1.0, ("defense",)).describe() == {
            "press": "snapkv",
            "base": None,
            "press_sha256": snapkv.sha256,
            "parameters": {"window": 16, "kernel": 5},
            "ratio": 0.5,
            "budget": None,
            "budget_bytes": None,
            "fair": 1.0,
            "keep": ["defense"],
            "positions": "original",
            "merge": "none",
            "decode_budget": None,
            "decode_every": None,
            "kv_bits": 16,
            "kv_scheme": None,
            "kv_group": None,
            "kv_residual": None,
            "key_channels": 0.0,
            "key_window": None,
        }

    def test_describes_a_wrapper_by_what_it_wraps(self) -> None:
        described = policy("chunkkv", "tova", {"chunk": 3}, budget=9).describe()
        expected = {"press": "chunkkv", "base": "tova", "parameters": {"chunk": 3}, "budget": 9}
        assert described.items() >= expected.items()
        assert described["press_sha256"] not in (built_in_presses()["chunkkv"].sha256, press("tova").sha256)

    def test_describes_decoding_and_positions(self) -> None:
        described = policy("tova", decode_budget=40, decode_every=4, positions="contiguous").describe()
        assert (described["decode_budget"], described["decode_every"], described["positions"]) == (40, 4, "contiguous")

    def test_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Policy().ratio = 0.5  # type: ignore[misc]


class TestBudget:
    def test_evicts_and_is_no_more_than_the_context(self) -> None:
        by_budget = policy("tova", budget=10)
        assert by_budget.evicts and [by_budget.n_kept(n) for n in (1, 9, 10, 11, 5000)] == [1, 9, 10, 10, 10]

    @pytest.mark.parametrize("ratio", [0.5, 0.01])
    def test_goes_in_place_of_a_ratio(self, ratio: float) -> None:
        with pytest.raises(UsageError, match=rf"ratio={ratio} and budget=10 both say how much is kept; give one"):
            policy("tova", ratio=ratio, budget=10)

    @pytest.mark.parametrize("budget", [0, -3, 2.5, 10.0, "10", True, math.nan])
    @pytest.mark.parametrize("name", ["tova", "none"])
    def test_one_that_cannot_be(self, budget: object, name: str) -> None:
        with pytest.raises(UsageError) as error:
            Policy(load_press(name), budget=budget)  # type: ignore[arg-type]
        assert str(error.value) == f"budget={budget!r} is not allowed; it takes a whole number from 1"

    def test_needs_a_press(self) -> None:
        with pytest.raises(UsageError, match=r"budget=10 needs a press.*knorm.*tova"):
            Policy(budget=10)


class TestPositions:
    @pytest.mark.parametrize("positions", ["contigous", "", None, 3, True])
    def test_unknown_ones_name_those_there_are(self, positions: object) -> None:
        with pytest.raises(UsageError) as error:
            policy("tova", ratio=0.5, positions=positions)
        assert f"unknown positions {positions!r}." in str(error.value)
        assert str(error.value).endswith("Allowed: contiguous, original.")
        assert ("Did you mean 'contiguous'?" in str(error.value)) == (positions == "contigous")

    @pytest.mark.parametrize("name, parameters", UNEVEN)
    def test_contiguous_needs_equal_lengths(self, name: str, parameters: dict) -> None:
        with pytest.raises(UsageError, match=rf"positions=contiguous needs a press that keeps equally many.*'{name}'"):
            policy(name, None, parameters, ratio=0.5, positions="contiguous")
        assert policy(name, None, parameters, ratio=0.5).positions == "original"

    def test_contiguous_sees_through_a_wrapper(self) -> None:
        with pytest.raises(UsageError, match=r"positions=contiguous needs .*'chunkkv' does not"):
            policy("chunkkv", "pyramidkv", ratio=0.5, positions="contiguous")
        assert policy("chunkkv", "knorm", ratio=0.5, positions="contiguous").division.uniform


class TestDecodeBudget:
    @pytest.mark.parametrize("name", DECODING)
    def test_these_presses_can(self, name: str) -> None:
        able = policy(name, decode_budget=40)
        assert able.decode_every == 16 and not able.evicts

    @pytest.mark.parametrize("name", sorted({press.name for press in built_in_presses().values()} - set(DECODING)))
    def test_the_others_name_those_that_can(self, name: str) -> None:
        with pytest.raises(UsageError) as error:
            table_policy(name, decode_budget=40)
        message = str(error.value)
        assert "decode_budget=40 needs a press" in message and f"'{name}' is not one of them" in message
        assert f"({', '.join(DECODING)})" in str(error.value)

    def test_a_wrapper_cannot_whatever_it_wraps(self) -> None:
        with pytest.raises(UsageError, match=r"decode_budget=40 needs a press .*'adakv' is not one of them"):
            policy("adakv", "knorm", decode_budget=40)

    @pytest.mark.parametrize("fair", [0.1, 1.0])
    def test_is_not_defined_with_fairness(self, fair: float) -> None:
        with pytest.raises(UsageError, match=rf"decode_budget=40 with fair={fair:g} is not defined.*fair=false"):
            policy("tova", ratio=0.5, fair=fair, decode_budget=40)

    @pytest.mark.parametrize("name", ["decode_budget", "decode_every"])
    @pytest.mark.parametrize("value", [0, -1, 2.0, "9", True])
    def test_counts_that_cannot_be(self, name: str, value: object) -> None:
        with pytest.raises(UsageError) as error:
            Policy(press("tova"), **{"decode_budget": 40, name: value})  # type: ignore[arg-type]
        assert str(error.value) == f"{name}={value!r} is not allowed; it takes a whole number from 1"

    def test_needs_a_press(self) -> None:
        with pytest.raises(UsageError, match=r"decode_budget=40 needs a press.*knorm.*tova"):
            Policy(decode_budget=40)

    @pytest.mark.parametrize("value", [0, -1, 2.0, "9", True])
    def test_is_checked_without_a_press_too(self, value: object) -> None:
        with pytest.raises(UsageError) as error:
            Policy(decode_budget=value)  # type: ignore[arg-type]
        assert "decode_budget=" in str(error.value) and "a whole number from 1" in str(error.value)


class TestParameters:
    @pytest.mark.parametrize(
        "name, base, wrong, allowed",
        [
            ("pyramidkv", None, {"window": 0}, "a whole number from 1 (default 64)"),
            ("pyramidkv", None, {"beta": 0}, "a whole number from 1 (default 20)"),
            ("pyramidkv", None, {"beta": 0.5}, "a whole number from 1 (default 20)"),
            ("pyramidkv", None, {"beta": -20}, "a whole number from 1 (default 20)"),
            ("adakv", None, {"safeguard": 2}, "a number from 0 to 1 (default 0.2)"),
            ("adakv", None, {"safeguard": -0.1}, "a number from 0 to 1 (default 0.2)"),
            ("adakv", None, {"window": 0}, "a whole number from 1 (default 64)"),
            ("adakv", "pyramidkv", {"beta": 0}, "a whole number from 1 (default 20)"),
            ("chunkkv", None, {"chunk": 0}, "a whole number from 1 (default 20)"),
            ("chunkkv", "streaming_llm", {"sinks": -1}, "a whole number from 0 (default 4)"),
            ("kvzip", None, {"chunk": 0}, "a whole number from 1 (default 2048)"),
            ("kvzip", None, {"uniform": 1}, "true or false (default False)"),
            ("kvzip", None, {"uniform": "yes"}, "true or false (default False)"),
            ("lagkv", None, {"lag": 0}, "a whole number from 1 (default 128)"),
            ("expected_attention", None, {"horizon": 0}, "a whole number from 1 (default 512)"),
            ("h2o", None, {"recent": 1.5}, "a number from 0 to 1 (default 0.0)"),
        ],
    )
    def test_a_value_that_cannot_be(self, name: str, base: str | None, wrong: dict, allowed: str) -> None:
        with pytest.raises(UsageError) as error:
            policy(name, base, wrong, ratio=0.5)
        ((parameter, value),) = wrong.items()
        assert str(error.value) == f"press {name!r}: {parameter}={value!r} is not allowed; it takes {allowed}"


class TestBase:
    def test_an_unknown_one_names_the_nearest(self) -> None:
        with pytest.raises(UsageError, match=r"unknown press 'snapvk'\. Did you mean 'snapkv'\? Allowed: .*knorm"):
            press("adakv", "snapvk")

    @pytest.mark.parametrize("name", ["snapkv", "kvzip", "none"])
    def test_is_for_presses_that_wrap(self, name: str) -> None:
        with pytest.raises(UsageError) as error:
            load_press(name, "knorm")
        wrappers = ", ".join(sorted(WRAPPERS))
        assert str(error.value) == f"base='knorm' is for presses that wrap another ({wrappers}), not for {name!r}"

    @pytest.mark.parametrize(
        "name, base, why",
        [
            ("adakv", "chunkkv", "press 'adakv' cannot wrap 'chunkkv', which is a wrapper itself"),
            ("chunkkv", "adakv", "press 'chunkkv' cannot wrap 'adakv', which is a wrapper itself"),
            ("adakv", "adakv", "press 'adakv' cannot wrap 'adakv', which is a wrapper itself"),
            ("adakv", "kvzip", "press 'adakv' cannot wrap 'kvzip': it scores by a replay, after the prefill"),
            ("chunkkv", "kvzip", "press 'chunkkv' cannot wrap 'kvzip': it scores by a replay, after the prefill"),
            ("criticalkv", "finch", "press 'criticalkv' cannot wrap 'finch': it scores by a replay, after the prefill"),
            ("criticalkv", "adakv", "press 'criticalkv' cannot wrap 'adakv', which is a wrapper itself"),
            ("adakv", "none", "press 'adakv' cannot wrap 'none'; it needs a press that scores"),
        ],
    )
    def test_what_cannot_be_wrapped(self, name: str, base: str, why: str) -> None:
        with pytest.raises(UsageError) as error:
            load_press(name, base)
        assert str(error.value) == why

    @pytest.mark.parametrize("base", ["", 0])
    def test_one_that_is_no_name_is_an_error(self, base: Any) -> None:
        with pytest.raises(UsageError, match="unknown press"):
            load_press("adakv", base)


class TestPoolOverTheModel:
    @pytest.fixture
    def file(self, tmp_path: Path) -> str:
        """A press of a user's own that pools over the model and scores during the prefill."""
        (tmp_path / "mine.yaml").write_text(
            "press: mine\nscore: !function fairkv_eval.scores.knorm\n"
            "budget: !function fairkv_eval.eviction.budgets.kvzip\n"
            "parameters:\n  uniform: {default: false}\n"
        )
        return str(tmp_path / "mine.yaml")

    def test_needs_no_replay(self, file: str) -> None:
        assert policy(file, ratio=0.5).division.pooled == "model"

    def test_by_layer_it_does_not(self, file: str) -> None:
        assert policy(file, None, {"uniform": True}, ratio=0.5).division.pooled == "layer"

    def test_a_wrapper_around_it_pools_as_it_does(self, file: str) -> None:
        assert policy("adakv", file, ratio=0.5).division.pooled == "layer"
        assert policy("chunkkv", file, ratio=0.5).division.pooled == "model"
        with pytest.raises(UsageError, match="press 'zigzagkv' cannot wrap 'mine': both say how many pairs a layer"):
            policy("zigzagkv", file, ratio=0.5)


class TestOwnAmount:
    """Presses that say themselves how much is kept."""

    @pytest.mark.parametrize("name", OWN)
    @pytest.mark.parametrize("amount", [{"ratio": 0.5}, {"budget": 7}, {"ratio": 0.0}])
    def test_takes_neither_ratio_nor_budget(self, name: str, amount: dict[str, float]) -> None:
        (key, value), typed = *amount.items(), {"press": name, **PRESSES[name]}
        with pytest.raises(UsageError) as error:
            Policy.of({**typed, **amount})
        assert str(error.value) == (
            f"press '{name}' itself says how much is kept, so {key}={value:g} beside it has no meaning"
        )
        own = Policy.of(typed)
        assert own.evicts and own.sets_amount and own.describe()["sets_amount"] is True
        assert " ratio=" not in own.label and " budget=" not in own.label
        assert Policy.of(own.arguments()) == own

    def test_its_label_leaves_out_what_is_empty(self) -> None:
        assert Policy.of({"press": "layer_ratios", "base": "knorm", "by_layer": [0.5, 0.25]}).label == (
            "layer_ratios(base=knorm,by_layer=0.5+0.25)"
        )

    @pytest.mark.parametrize("base", ["pyramidkv", "simlayerkv"])
    @pytest.mark.parametrize("name", ["threshold", "zigzagkv", "layer_ratios"])
    def test_two_that_say_how_much_is_kept_are_one_too_many(self, name: str, base: str) -> None:
        if (name, base) == ("threshold", "simlayerkv"):
            pytest.skip("both have a parameter threshold, which is refused before")
        parameters = {"by_layer": "0.5"} if name == "layer_ratios" else {}
        with pytest.raises(UsageError, match=f"press '{name}' cannot wrap '{base}': "):
            Policy.of({"press": name, "base": base, **parameters})

    def test_nor_is_one_wrapped_by_a_rule_of_scores(self) -> None:
        for name in ("chunkkv", "blockwise", "adakv"):
            with pytest.raises(UsageError, match=f"press '{name}' cannot wrap 'simlayerkv': its scores say how much"):
                Policy.of({"press": name, "base": "simlayerkv", "ratio": 0.5})

    def test_a_threshold_needs_a_press_that_scores(self) -> None:
        for base, why in ((None, "needs a press that scores: base=<press>"), ("none", "cannot wrap 'none'")):
            with pytest.raises(UsageError, match=f"press 'threshold' {why}"):
                Policy.of({"press": "threshold", "base": base})

    def test_blockwise_refuses_by_name_what_needs_positions(self) -> None:
        with pytest.raises(UsageError, match="'blockwise' cannot wrap 'expected_attention': it turns queries back"):
            Policy.of({"press": "blockwise", "base": "expected_attention", "ratio": 0.5})

    def test_kept_pairs_are_the_mean_or_the_most_there_can_be(self) -> None:
        kept = {name: Policy.of({"press": name, **PRESSES[name]}).n_kept(100) for name in OWN}
        assert kept == {"duo_attention": 100, "simlayerkv": 100, "threshold": 100, "layer_ratios": 50}
        assert Policy.of({"press": "layer_ratios", "by_layer": "0.5+0.25"}).n_kept(9) == 5  # of 4 and 6


@pytest.mark.parametrize(
    "arguments, label, slug",
    [
        ({"kv_bits": 4}, "full cache kv_bits=4", "full_kv_bits=4"),
        ({"kv_bits": 16}, "full cache", "full"),
        (
            {"key_channels": 0.4, "key_window": 16},
            "full cache key_channels=0.4 key_window=16",
            "full_key_channels=0.4_key_window=16",
        ),
        (
            {"kv_bits": 4, "budget_bytes": 0.3},
            "full cache budget_bytes=0.3 kv_bits=4",
            "full_budget_bytes=0.3_kv_bits=4",
        ),
        (
            {"press": "knorm", "budget_bytes": "1.50 MiB", "fair": True},
            "knorm budget_bytes=1.5MiB fair=1",
            "knorm_fair=1_budget_bytes=1.5MiB",
        ),
        (
            {"press": "knorm", "ratio": 0.5, "kv_bits": "k4v2", "kv_scheme": "kivi", "kv_residual": 0},
            "knorm ratio=0.5 kv_bits=k4v2 kv_scheme=kivi kv_residual=0",
            "knorm_ratio=0.5_kv_bits=k4v2_kv_scheme=kivi_kv_residual=0",
        ),
    ],
)
def test_storage_is_part_of_a_policy_with_or_without_a_press(arguments: dict, label: str, slug: str) -> None:
    built = Policy.of(arguments)
    assert (built.label, built.slug()) == (label, slug)
    names = ("kv_", "key_", "budget_bytes") if built.press is None else ("kv_", "key_")
    assert built.unevicted == Policy.of({k: v for k, v in arguments.items() if k.startswith(names)})
    assert built.unevicted.storage == built.storage and Policy.of(built.arguments()) == built
