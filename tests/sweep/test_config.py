"""Sweeps as YAML and as flags: what they expand to, and one clear error for each thing that can be wrong."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.config import Sweep, read_sweep, sweep_of
from fairkv_eval.sweep.grid import ratios
from fairkv_eval.sweep.parsers import PARSERS

BASE = {"tasks": ["sys_ifeval"], "output_path": "out", "presses": "tova", "ratios": "0:0.9:0.1"}


def of(**keys) -> Sweep:
    """The sweep of BASE with these keys."""
    return sweep_of({**BASE, **keys})


def names(**keys) -> list[str]:
    """Its policies, as folder names."""
    return [policy.slug() for policy in of(**keys).policies]


def test_a_range_of_ratios_has_one_full_cache_whatever_the_press() -> None:
    assert names(presses=["tova", "knorm"], ratios="0:0.4:0.2", fair=[False, True]) == [
        "full",
        *(f"{press}_ratio={r}{fair}" for press in ("tova", "knorm") for r in (0.2, 0.4) for fair in ("", "_fair=1")),
    ]
    assert [p.ratio for p in of().policies] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert names(ratios=[0.5]) == ["tova_ratio=0.5"] and names(ratios=0.5, fidelity=True)[0] == "full"


def test_a_storage_goes_with_every_ratio_and_with_none() -> None:
    assert names(presses=[{"press": "tova", "kv_bits": [16, "k4v2"]}], ratios=[0, 0.5]) == [
        "full",
        "tova_ratio=0.5",
        "full_kv_bits=k4v2",
        "tova_ratio=0.5_kv_bits=k4v2",
    ]
    alone = {"press": "none", "kv_bits": [8, 4], "kv_scheme": "rotated", "ratios": 0}
    assert names(presses=[alone, "knorm"], ratios=0.5) == [
        *(f"full_kv_bits={bits}_kv_scheme=rotated" for bits in (8, 4)),
        "knorm_ratio=0.5",
    ]


def test_lists_of_parameters_bases_and_whitelists() -> None:
    presses = [
        {"press": "snapkv", "window": [16, 64], "ratios": 0.5},
        {"press": "adakv", "base": ["knorm", "tova"], "fair": 0.5},
        {"press": "streaming_llm", "keep": ["defense", "special"], "keep_text": "no, never", "budgets": [8]},
        "streaming_llm,decode_budget=64",
    ]
    assert names(presses=presses, ratios=[0]) == [
        "full",
        "snapkv_window=16_ratio=0.5",
        "snapkv_ratio=0.5",
        "streaming_llm_budget=8_keep=defense_keep_text=no,-never",
        "streaming_llm_budget=8_keep=special_keep_text=no,-never",
        "streaming_llm_decode_budget=64",
    ]
    assert names(presses=[presses[1]], ratios=[0.4]) == [
        "adakv_base=knorm_ratio=0.4_fair=0.5",
        "adakv_base=tova_ratio=0.4_fair=0.5",
    ]


def test_a_press_that_says_how_much_is_kept_has_no_ratios() -> None:
    """Those of the sweep are for the other presses, and its own are refused."""
    presses = [
        "knorm",
        {"press": "threshold", "base": "knorm", "threshold": [-2.5, -3], "fair": [False, True]},
        {"press": "layer_ratios", "base": "knorm", "by_layer": ["0.5+0.2", "0.5+0.7"]},
    ]
    assert names(presses=presses, ratios=[0.3, 0.6]) == [
        *("knorm_ratio=0.3", "knorm_ratio=0.6"),
        *(f"threshold_base=knorm_threshold={x}{fair}" for x in ("-2.5", "-3") for fair in ("", "_fair=1")),
        *(f"layer_ratios_base=knorm_by_layer={x}" for x in ("0.5+0.2", "0.5+0.7")),
    ]
    assert names(presses="simlayerkv", ratios=None) == ["simlayerkv"]


def test_budgets_in_bytes_are_those_of_presses_and_of_storages() -> None:
    presses = ["knorm", {"press": "none", "kv_bits": 4}, {"press": "tova", "kv_bits": 8, "budget_bytes": "2 MiB"}]
    assert names(presses=presses, ratios=None, budget_bytes=[0.5, "1MiB"]) == [
        *("knorm_budget_bytes=0.5", "knorm_budget_bytes=1MiB"),
        *("full_budget_bytes=0.5_kv_bits=4", "full_budget_bytes=1MiB_kv_bits=4"),
        "tova_budget_bytes=2MiB_kv_bits=8",
    ]


def test_a_policys_arguments_make_it_again() -> None:
    presses = [
        {"press": "adakv", "base": "h2o", "recent": 0.3},
        {"press": "tova", "keep_text": ["a, b"], "keep": "0:3"},
    ]
    for policy in of(presses=presses, ratios=[0.25, 0], fair=[False, 0.5]).policies:
        settings = {k: v for k, v in policy.arguments().items() if k in ("ratio", "fair")}
        again = of(
            presses=[{k: v for k, v in policy.arguments().items() if k not in settings} or "tova"],
            ratios=settings.get("ratio", 0),
            fair=settings.get("fair", False),
        )
        assert again.policies == (policy,)


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 9))
def test_ranges_are_exact(start: int, steps: int, step: int) -> None:
    stop = start + steps * step
    text = f"{start / 1000}:{stop / 1000}:{step / 1000}"
    assert ratios(text) == [(start + step * i) / 1000 for i in range(steps + 1)]


def test_every_setting_has_a_parser() -> None:
    assert PARSERS.keys() == {field.name for field in fields(Sweep)} - {"models", "policies"}


WRONG = {
    "press 'simlayerkv' itself says how much is kept, so ratio=0.5": {
        "presses": [{"press": "simlayerkv", "ratios": 0.5}]
    },
    "press 'simlayerkv' itself says how much is kept, so budget=9": {
        "presses": [{"press": "simlayerkv", "budgets": 9}]
    },
    "so budget_bytes=0.5 beside it": {"presses": [{"press": "simlayerkv", "budget_bytes": 0.5}]},
    "budget_bytes=[] is not allowed": {"budget_bytes": []},
    "budget_bytes=1 is not allowed": {"budget_bytes": [0.5, 1]},
    "budget_bytes=0.5 has no effect on the full cache": {"presses": [{"press": "none", "budget_bytes": 0.5}]},
    "fair=[] is not allowed; it takes at least one value": {"fair": []},
    "ratios=[] is not allowed": {"ratios": []},
    "budgets=[] is not allowed": {"budgets": []},
    "window=[] is not allowed": {"presses": [{"press": "snapkv", "window": []}]},
    "at most 1,000 values, and this range makes 90,000,001": {"ratios": "0:0.9:0.00000001"},
    "ratios=nan is not allowed": {"ratios": [float("nan")]},
    "budgets=inf is not allowed": {"budgets": float("inf")},
    "budgets='inf:nan:1' is not allowed": {"budgets": "inf:nan:1"},
    "budgets='1_6' is not allowed": {"budgets": "1_6"},
    "budgets=100000000000000000000 is not allowed": {"budgets": 10**20},
    "fair=nan is not allowed": {"fair": float("nan")},
    "limit=nan is not allowed": {"limit": float("nan")},
    "limit=inf is not allowed": {"limit": float("inf")},
    "seed=-1 is not allowed": {"seed": -1},
    "seed=4294967296 is not allowed": {"seed": 2**32},
    "unknown key 'ratio'. Did you mean 'ratios'?": {"ratio": 0.5},
    "ratio 1 is not allowed": {"ratios": [0.5, 1]},
    "ratio 1.5 is not allowed": {"ratios": "0:1.5:1.5"},
    "ratio -0.1 is not allowed": {"ratios": -0.1},
    "ratios='0:0.9' is not allowed": {"ratios": "0:0.9"},
    "ratios='a' is not allowed": {"ratios": ["a"]},
    "ratios='0.9:0:0.1' is not allowed": {"ratios": "0.9:0:0.1"},
    "ratios is missing": {"ratios": None},
    "budget 2.5 is not allowed": {"budgets": [2.5]},
    "fair=2 is not allowed": {"fair": [2]},
    "fair='yes' is not allowed": {"fair": "yes"},
    "unknown press 'tovva'. Did you mean 'tova'?": {"presses": ["tovva"]},
    "unknown parameter of press 'snapkv' 'windw'. Did you mean 'window'?": {"presses": "snapkv,windw=3"},
    "window=0 is not allowed": {"presses": [{"press": "snapkv", "window": 0}]},
    "unknown positions": {"presses": [{"press": "tova", "positions": "moved"}]},
    "the full cache is not a press": {"presses": ["none"]},
    "a press is a name, or a mapping": {"presses": [{"window": 3}]},
    "presses is missing": {"presses": []},
    "tasks is missing": {"tasks": []},
    "tasks=[3] is not allowed": {"tasks": [3]},
    "output_path is missing": {"output_path": None},
    "limit=0 is not allowed": {"limit": 0},
    "limit='all' is not allowed": {"limit": "all"},
    "seed=[1, 2] is not allowed": {"seed": [1, 2]},
    "batch_size=0 is not allowed": {"batch_size": 0},
    "batch_size='many' is not allowed": {"batch_size": "many"},
    "fidelity='yes' is not allowed": {"fidelity": "yes"},
    "num_fewshot=-1 is not allowed": {"num_fewshot": -1},
    "unknown generation argument 'max_gen_tok'. Did you mean 'max_gen_toks'?": {"gen_kwargs": {"max_gen_tok": 3}},
    "temperature=0 cannot be sampled at": {"gen_kwargs": {"do_sample": True, "temperature": 0}},
    "max_gen_toks=0 is not allowed": {"gen_kwargs": "max_gen_toks=0"},
    "metadata=3 is not allowed": {"metadata": 3},
    "unknown model argument 'dtyp'. Did you mean 'dtype'?": {"model_args": {"dtyp": "float32"}},
    "press='tova' is not an argument of a sweep's model": {"model_args": "press=tova"},
    "batch_size=3 goes beside the model's arguments": {"models": [{"batch_size": 3}]},
    "unknown scope 'all'": {"model_args": {"scope": "all"}},
    "models is empty": {"models": []},
    "fidelity is measured in one pass": {"presses": "tova,decode_budget=64", "fidelity": True},
}


@pytest.mark.parametrize("message", WRONG)
def test_an_error_names_what_is_wrong_and_what_is_allowed(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FairKV, "_create_model", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UsageError) as error:
        of(**WRONG[message])
    assert message in str(error.value)


def test_a_file_means_what_it_says(tmp_path: Path) -> None:
    """In YAML 1.1 these were 60496, 252 and 90, and of two keys the last one counted."""
    path = tmp_path / "sweep.yaml"
    text = "presses: [{press: tova, keep: 4:12}]\nbudgets: 16:48:16\ntasks: a\noutput_path: out\n"
    path.write_text(text)
    assert [(p.budget, p.keep) for p in read_sweep(path).policies] == [(b, ("4:12",)) for b in (16, 32, 48)]
    for more, message in {
        "limit: 1:30": "limit='1:30' is not allowed",
        "fidelity: yes": "fidelity='yes' is not allowed",
        "tasks: b": "line 5: the key 'tasks' is given twice",
    }.items():
        path.write_text(text + more)
        with pytest.raises(UsageError, match=message):
            read_sweep(path)


def test_files_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "model_args: {dtype: bfloat16}\nmodels: [a, {pretrained: b, dtype: float32}]\npresses: [tova]\n"
        "ratios: 0:0.4:0.2\ntasks: a,b\nlimit: 3\noutput_path: out\nseed: 7\n"
    )
    sweep = read_sweep(path, {"limit": 5})
    assert sweep.models == ({"dtype": "bfloat16", "pretrained": "a"}, {"dtype": "float32", "pretrained": "b"})
    assert (sweep.tasks, sweep.limit, sweep.seed) == (("a", "b"), 5, (7, 7, 7, 7)) and len(sweep.policies) == 3
    assert sweep.policies[0] == Policy()
    for text, message in {"- a": "a mapping of keys", "a: [": "not YAML", "rations: 1": "unknown key"}.items():
        path.write_text(text)
        with pytest.raises(UsageError, match=message):
            read_sweep(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_sweep(tmp_path / "none.yaml")


def test_the_command_prints_an_error_in_one_line(capsys: pytest.CaptureFixture) -> None:
    flags = ["--tasks", "x", "--output_path", "out", "--presses", "tova,snapkv,window=16", "--fair", "false,true"]
    assert main(["sweep", *flags, "--ratios", "0.5,1.5"]) == 2
    assert capsys.readouterr().err.startswith("fairkv: flags: presses: 'tova': ratio 1.5 is not allowed")


def test_a_limit_is_one_number_however_it_is_typed(tmp_path: Path) -> None:
    """A flag is a float: the same cells must have the same ids as with the number in the file."""
    path = tmp_path / "sweep.yaml"
    path.write_text("presses: [tova]\nratios: [0.5]\ntasks: a\nlimit: 8\noutput_path: out\n")
    by_flag, by_file = read_sweep(path, {"limit": 8.0}), read_sweep(path)
    assert json.dumps(by_flag.identity()["limit"]) == json.dumps(by_file.identity()["limit"]) == "8"
    assert read_sweep(path, {"limit": 0.5}).limit == 0.5
