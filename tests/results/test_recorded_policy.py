"""Policies read back from results: present ones, and those from before digests were taken per function."""

from __future__ import annotations

import json
from pathlib import Path

import former_digests
import published_baseline
import pytest

from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import built_in_presses
from fairkv_eval.leaderboard.board import build
from fairkv_eval.results.reader import read
from fairkv_eval.results.recorded_policy import RecordedPolicy


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"press": "snapkv", "ratio": 0.5},
        {"press": "adakv", "base": "knorm", "safeguard": 0.3, "budget": 64, "fair": True},
        {"press": "tova", "keep": "defense+0:12", "keep_text": "a, b", "positions": "contiguous"},
        {"press": "h2o", "recent": 0.1, "decode_budget": 64, "decode_every": 4},
        {"press": "simlayerkv", "threshold": 0.8},
        {"press": "threshold", "base": "knorm", "threshold": -3.5, "fair": 0.5},
        {"press": "layer_ratios", "base": "knorm", "by_layer": "0.5+0.25"},
        {"press": "zigzag", "ratio": 0.5},
        {"kv_bits": 4},
        {"kv_bits": "k4v2", "kv_scheme": "kivi", "kv_group": 16, "kv_residual": 0},
        {"press": "tova", "ratio": 0.5, "kv_bits": 8, "kv_scheme": "rotated"},
    ],
)
def test_a_described_policy_is_read_back(arguments: dict) -> None:
    policy = Policy.of(arguments)
    recorded = RecordedPolicy.of(json.loads(json.dumps(policy.describe())))
    assert recorded.describe() == policy.describe()
    assert (recorded.label, recorded.name, list(recorded.settings())) == (
        policy.label,
        policy.name,
        list(policy.settings()),
    )
    assert Policy.of(recorded.arguments()) == Policy.of(policy.arguments()) == policy


def test_a_result_of_another_model_is_the_full_cache() -> None:
    assert RecordedPolicy.of({}) == RecordedPolicy() and RecordedPolicy().full


def test_a_press_that_says_how_much_is_kept_is_not_the_full_cache() -> None:
    described = Policy.of({"press": "simlayerkv"}).describe()
    assert not RecordedPolicy.of(described).full
    assert RecordedPolicy.of({**described, "sets_amount": None}).full


def test_a_packed_cache_is_not_the_full_cache() -> None:
    assert not RecordedPolicy(kv_bits=4).full and not RecordedPolicy("tova", kv_bits=8).full
    assert RecordedPolicy(scope="prompt").label == "full cache"
    assert RecordedPolicy(scope="prompt", kv_bits=4).label == "full cache kv_bits=4 scope=prompt"


def test_former_digests_lead_to_the_present_ones() -> None:
    """If a rule was only renamed inside, `python tests/support/former_digests.py`; see there."""
    entries = former_digests.digests()
    assert {name: entry["present"] for name, entry in entries.items()} == {
        name: former_digests.present(name) for name in entries
    }
    assert {name for name in entries if "/" not in name} <= {press.name for press in built_in_presses().values()}


@pytest.mark.parametrize("name", ["h2o", "knorm", "snapkv", "streaming_llm", "tova"])
def test_results_from_before_and_after_share_a_row(name: str, tmp_path: Path) -> None:
    parts = (f"/{name}_ratio=0.6-", f"/{name}_window=16_ratio=0.6-")
    result = next(result for part in parts for result in published_baseline.results(part)).content
    (tmp_path / "old.json").write_text(json.dumps(result))
    policy = result["config"]["fairkv"]
    assert policy["press_sha256"] != former_digests.present(name)
    policy["press_sha256"] = former_digests.present(name)
    result["date"] += 1
    (tmp_path / "new.json").write_text(json.dumps(result))
    (record,), ((path, reason, _),) = read(tmp_path)
    assert record.path.name == "new.json" and path.name == "old.json" and "the same cell" in reason

    for key in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):  # another task's
        result[key] = {"another": next(iter(result[key].values()))}
    (tmp_path / "new.json").write_text(json.dumps(result))
    (row,) = build(read(tmp_path)).data["rows"]
    assert len(row["tasks"]) == 2
