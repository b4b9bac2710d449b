"""Results arranged into lines: what belongs together, where it stands, and what has no place."""

from __future__ import annotations

import pytest
import synthetic_results

from fairkv_eval.figures.lines import held, labels, setting_of
from fairkv_eval.figures.model_results import arrange
from fairkv_eval.figures.panels import share_of_the_cache
from fairkv_eval.results.selection import selected


class Folder:
    """Results of one task, each with the share of the full cache that it holds."""

    def __init__(self, path):
        self.path, self.count = path, 0
        self.add(1.0)

    def add(self, share, press="none", parameters=None, fair=0.0, **fairkv):
        fairkv = {"ratio": 0.0, **fairkv}
        self.count += 1
        synthetic_results.write(
            self.path, press=press, ratio=1 - share, fair=fair, parameters=parameters, number=self.count, fairkv=fairkv
        )

    def arranged(self):
        (results,), left_out = arrange(selected([self.path]).records)
        return results, left_out

    def lines(self):
        """{press and setting: the shares of its points}"""
        results, left_out = self.arranged()
        assert not left_out
        (task,) = results.tasks
        return {
            f"{results.presses[line]}: {setting_of(line)}": [round(held(record), 3) for record in records]
            for line, records in task.lines.items()
        }


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def test_points_stand_by_the_bytes_held(folder):
    folder.add(0.1, "tova", ratio=0.6, kv_bits=4)
    folder.add(0.2, "tova", ratio=0.3, kv_bits=4)
    folder.add(0.7, "tova", ratio=0.3)
    assert folder.lines() == {"tova: kv_bits=4": [0.2, 0.1], "tova: plain": [1.0, 0.7]}


def test_a_press_without_a_ratio_runs_over_its_parameters(folder):
    for threshold, share in ((0.1, 0.9), (0.5, 0.4)):
        folder.add(share, "threshold", {"threshold": threshold}, sets_amount=True)
    folder.add(0.6, "simlayerkv", sets_amount=True)
    assert folder.lines() == {"simlayerkv: plain": [1.0, 0.6], "threshold: plain": [1.0, 0.9, 0.4]}


def test_fewer_bits_without_a_press_are_a_line(folder):
    for bits, share in ((8, 0.53), (4, 0.28), ("k4v2", 0.22)):
        folder.add(share, kv_bits=bits)
    folder.add(0.3, kv_bits=4, kv_scheme="kivi")
    lines = folder.lines()
    assert lines == {"no press: fewer bits": [1.0, 0.53, 0.28, 0.22], "no press: fewer bits, kivi": [1.0, 0.3]}


def test_budgets_are_a_line_beside_ratios(folder):
    for budget, share in ((64, 0.6), (16, 0.1)):
        folder.add(share, "tova", budget=budget)
    folder.add(0.5, "tova", ratio=0.5)
    assert folder.lines() == {"tova: plain": [1.0, 0.5], "tova: budget": [1.0, 0.6, 0.1]}


def test_a_line_of_packed_pairs_starts_at_the_packed_cache_that_evicts_nothing(folder):
    folder.add(0.28, kv_bits=4)
    for share, bits in ((0.14, 4), (0.5, 16)):
        folder.add(share, "tova", ratio=0.5, kv_bits=bits)
    expected = {"no press: fewer bits": [1.0, 0.28], "tova: kv_bits=4": [0.28, 0.14], "tova: plain": [1.0, 0.5]}
    assert folder.lines() == expected


def test_budgets_of_bytes_are_on_the_line_of_ratios(folder):
    for share in (0.5, 0.25):
        folder.add(share, "tova", budget_bytes=share)
    folder.add(0.4, "tova", ratio=0.6)
    assert folder.lines() == {"tova: plain": [1.0, 0.5, 0.4, 0.25]}


def test_settings_of_most_figures_have_the_first_styles(folder):
    for fairkv in ({"keep": ["defense"]}, {"fair": 0.5}, {"merge": "similar"}, {}):
        folder.add(0.5, "tova", ratio=0.5, **fairkv)
    results, _ = folder.arranged()
    assert list(results.styles) == ["plain", "fair", "fair=0.5", "keep=defense", "merge=similar"]


def test_the_ratio_stands_beside_bytes_only_if_it_says_the_same(folder):
    folder.add(0.5, "tova", ratio=0.5)
    results, _ = folder.arranged()
    assert share_of_the_cache(results.tasks).ratio
    folder.add(0.2, "tova", ratio=0.5, kv_bits=4)
    results, _ = folder.arranged()
    assert not share_of_the_cache(results.tasks).ratio


def test_presses_that_differ_in_parameters_are_told_apart(folder):
    for window in (8, 16):
        folder.add(0.5, "snapkv", {"window": window}, ratio=0.5)
    folder.add(0.5, "tova", ratio=0.5)
    results, _ = folder.arranged()
    names = {"snapkv(window=8)", "snapkv(window=16)", "tova"}
    assert set(results.presses.values()) == set(labels(results.tasks[0].lines).values()) == names


def test_presses_of_one_name_that_differ_in_definition_are_told_apart(folder):
    for digest in ("a" * 64, "b" * 64):
        folder.add(0.5, "mine", ratio=0.5, press_sha256=digest)
    results, _ = folder.arranged()
    assert set(results.presses.values()) == {"mine aaaaaa", "mine bbbbbb"}


def test_answers_within_a_budget_and_other_conditions_are_left_out_by_name(tmp_path):
    synthetic_results.write(tmp_path)
    synthetic_results.write(tmp_path, press="tova", ratio=0.5, number=1)
    synthetic_results.write(tmp_path, press="tova", number=2, fairkv={"decode_budget": 64})
    synthetic_results.write(tmp_path, press="tova", ratio=0.7, number=3, torch_seed=9)
    (results,), left_out = arrange(selected([tmp_path]).records)
    assert len(left_out) == 2 and "bounds the answer as well" in left_out[0] and "other conditions" in left_out[1]
    assert [record.policy.ratio for record in next(iter(results.tasks[0].lines.values()))] == [0.0, 0.5]
