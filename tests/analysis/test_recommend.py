"""Recommendations: the error rate by simulation, power where losses are small, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import synthetic_results

from fairkv_eval.analysis.loss_bound import documents_needed, upper_bound
from fairkv_eval.analysis.recommend import recommend
from fairkv_eval.cli import main
from fairkv_eval.errors import UsageError

N = 400
DOCS = synthetic_results.documents(N)
RIGHT = [1.0] * 300 + [0.0] * 100


def losing(k: int) -> list[float]:
    """The scores of a policy that loses k documents."""
    return [0.0] * k + RIGHT[k:]


def results(folder, cells: dict, **others) -> None:
    """A full cache, and a file for each cell {(press, ratio, fair): documents lost}."""
    synthetic_results.write(folder, docs=DOCS, scores=RIGHT, **others)
    for number, ((press, ratio, fair), k) in enumerate(cells.items(), 1):
        synthetic_results.write(
            folder, docs=DOCS, scores=losing(k), press=press, ratio=ratio, fair=fair, number=number, **others
        )


CELLS = {
    ("tova", 0.2, 0.0): 0,
    ("tova", 0.5, 0.0): 100,
    ("tova", 0.8, 0.0): 0,  # by luck, say: it stands behind one that failed
    ("snapkv", 0.2, 1.0): 0,
    ("snapkv", 0.4, 1.0): 1,
    ("snapkv", 0.6, 1.0): 200,
}


def draws(mean: float, share: float, rng, shape) -> np.ndarray:
    """Losses of −1, 0 and 1 with this mean; ``share`` of the documents change."""
    return rng.choice([1.0, -1.0, 0.0], shape, p=[(share + mean) / 2, (share - mean) / 2, 1 - share])


@pytest.mark.parametrize("share", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("bound", [0.0, 0.02, 0.05])
def test_error_rate_stays_below_alpha(share, bound):
    """At the edge of the hypothesis, where errors are likeliest, the bound is too low in at most alpha of all cases."""
    rng = np.random.default_rng(0)
    errors = [upper_bound(row, 0.1) < bound for row in draws(bound, share, rng, (300, 150))]
    assert np.mean(errors) <= 0.1


def test_error_rate_over_families_and_sequences(monkeypatch):
    """The whole procedure on candidates that all lose just more than the bound: something is recommended in at most
    alpha of all cases."""
    import fairkv_eval.analysis.recommend as module
    from fairkv_eval.results.recorded_policy import RecordedPolicy

    rng = np.random.default_rng(1)
    policies = [RecordedPolicy(press, ratio=ratio) for press in "abc" for ratio in (0.2, 0.4)]
    sizes = {policy: [module.Size(policy.ratio, 1 - policy.ratio)] for policy in policies}
    wrong = 0
    for _ in range(200):
        losses = {p: {"task": ("acc", draws(0.0201, 0.05, rng, 250))} for p in policies}
        families = module.families_of(losses, sizes)
        tested = [module.tested_in_sequence(f, losses, sizes, 0.02, 0.2 / len(families), 1.0) for f in families]
        wrong += any(candidate.passed for family in tested for candidate in family)
    assert 0 < wrong / 200 <= 0.2


@pytest.mark.parametrize("bound", [0.01, 0.1])
def test_bound_is_close_to_the_best_there_is(bound):
    """Without any loss, n documents with (1 − bound)^n = level are the fewest that any test can do with."""
    fewest = np.log(0.1) / np.log(1 - bound)
    assert fewest < documents_needed(np.zeros(10), bound, 0.1) < 1.5 * fewest
    n = documents_needed(np.zeros(10), bound, 0.1)
    assert upper_bound(np.zeros(n), 0.1) <= bound < upper_bound(np.zeros(n - 1), 0.1)


def test_bound_narrows_with_documents_and_counts_gains():
    losses = draws(0.0, 0.1, np.random.default_rng(0), 2000)
    assert upper_bound(losses[:200], 0.1) > upper_bound(losses, 0.1) > losses.mean()
    assert upper_bound(losses, 0.1) < upper_bound(np.maximum(losses, 0), 0.1) - 0.03
    assert upper_bound([1.0] * 50, 0.1) == 1.0
    assert documents_needed([1.0, 0.0], 0.1, 0.1) is None


def test_order_of_documents_does_not_matter():
    losses = draws(0.0, 0.2, np.random.default_rng(0), 300)
    assert upper_bound(np.sort(losses), 0.1) == pytest.approx(upper_bound(losses, 0.1), abs=1e-8)


def test_strongest_that_passes_in_its_sequence(tmp_path):
    results(tmp_path, CELLS)
    recommendation = recommend([tmp_path], max_drop=0.05)
    assert recommendation.best is not None and recommendation.best.policy.label == "snapkv ratio=0.4 fair=1"
    passed = {c.policy.label: c.passed for family in recommendation.families for c in family}
    assert passed["tova ratio=0.2"] and not passed["tova ratio=0.5"] and not passed["tova ratio=0.8"]
    assert recommendation.level == pytest.approx(0.1 / 2)
    lost = next(c for family in recommendation.families for c in family if c.policy.ratio == 0.5).losses[0]
    assert (lost.n, lost.mean, lost.needed) == (N, 0.25, None)


def test_evicted_and_quantized_policies_compete_by_bytes_held(tmp_path, capsys):
    """Few bits are one sequence without a press; merging does not make a policy smaller."""
    results(tmp_path, {("tova", 0.5, 0.0): 0})
    policies = [
        ("none", 0.0, 0.55, {"kv_bits": 8}, 0),
        ("none", 0.0, 0.28, {"kv_bits": 4}, 0),
        ("none", 0.0, 0.16, {"kv_bits": 2}, 200),
        ("tova", 0.6, 0.4, {"merge": "similar"}, 0),
        ("tova", 0.2, 0.2, {"kv_bits": 4, "fair": 1.0}, 200),
    ]
    for number, (press, ratio, held, fairkv, lost) in enumerate(policies, 5):
        scores = {"docs": DOCS, "scores": losing(lost), "number": number}
        synthetic_results.write(tmp_path, press=press, ratio=ratio, held=held, fairkv=fairkv, **scores)
    advice = recommend([tmp_path], max_drop=0.05)
    assert (advice.best.policy.label, advice.best.held, advice.best.ratio) == ("full cache kv_bits=4", 0.28, 0)
    families = {tuple(c.policy.label for c in family) for family in advice.families}
    assert families == {
        ("full cache kv_bits=8", "full cache kv_bits=4", "full cache kv_bits=2"),
        ("tova ratio=0.5",),
        ("tova ratio=0.6 merge=similar",),
        ("tova ratio=0.2 fair=1 kv_bits=4",),
    }
    assert main(["recommend", str(tmp_path), "--max_drop", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "full cache kv_bits=4 (28% of the KV bytes held, 0% of the pairs evicted)" in out


def test_none_says_how_close_and_what_it_would_take(tmp_path, capsys):
    results(tmp_path, {("tova", 0.2, 0.0): 1})
    assert main(["recommend", str(tmp_path), "--max_drop", "0.005"]) == 0
    out = capsys.readouterr().out
    assert "none has a loss of at most 0.005" in out
    needed = recommend([tmp_path], max_drop=0.005).families[0][0].losses[0].needed
    assert needed > N and f"{needed:,} documents would do" in out


def test_command_says_what_it_assumes_and_json(tmp_path, capsys):
    results(tmp_path, CELLS)
    assert main(["recommend", str(tmp_path), "--max_drop", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "snapkv ratio=0.4 fair=1 (60% of the KV bytes held, 40% of the pairs evicted)" in out
    assert "drawn independently" in out and "metric lies in 0 to 1" in out and "2110.01052" in out
    assert main(["recommend", str(tmp_path), "--max_drop", "0.05", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["label"] == "snapkv ratio=0.4 fair=1"


def test_a_policy_must_hold_on_every_task(tmp_path):
    results(tmp_path / "a", {("tova", 0.2, 0.0): 0, ("tova", 0.5, 0.0): 0}, task="one")
    results(tmp_path / "b", {("tova", 0.2, 0.0): 0, ("tova", 0.5, 0.0): 200}, task="two")
    both, one = recommend([tmp_path], max_drop=0.05), recommend([tmp_path], max_drop=0.05, tasks=["one"])
    assert both.best.policy.ratio == 0.2 and len(both.best.losses) == 2
    assert one.best.policy.ratio == 0.5


def test_less_is_better_turns_the_loss(tmp_path):
    """Where the task says that less is better, what the full cache has less of is lost."""
    results(tmp_path, {("tova", 0.5, 0.0): 200})
    for path in tmp_path.glob("results_*.json"):
        result = json.loads(path.read_text())
        result["higher_is_better"]["made_task"]["acc"] = False
        path.write_text(json.dumps(result))
    assert recommend([tmp_path], max_drop=0.05).best.losses[0].mean == -0.5


def test_policy_without_a_result_of_every_task_is_left_out(tmp_path):
    results(tmp_path / "a", {("tova", 0.2, 0.0): 0, ("tova", 0.5, 0.0): 0}, task="one")
    results(tmp_path / "b", {("tova", 0.2, 0.0): 0}, task="two")
    assert "tova ratio=0.5: no result of every task" in recommend([tmp_path]).left_out


def test_policy_whose_result_lacks_the_metric_is_left_out(tmp_path):
    """Fidelity, say, that was added to some cells of a sweep."""
    has = {"more": {"closeness": [1.0] * N}}
    for number, (press, ratio, given) in enumerate([("none", 0.0, has), ("tova", 0.2, has), ("tova", 0.5, {})]):
        synthetic_results.write(tmp_path, docs=DOCS, scores=RIGHT, press=press, ratio=ratio, number=number, **given)
    found = recommend([tmp_path], metric="closeness")
    assert found.best is not None and found.best.policy.label == "tova ratio=0.2"
    assert found.left_out == ["tova ratio=0.5: its result of made_task has no closeness"]


def test_the_metric_that_stands_for_a_task():
    from types import SimpleNamespace

    from fairkv_eval.results.selection import metric_of

    def record(*names):
        return SimpleNamespace(task="t", metrics=dict.fromkeys(names), higher_is_better=dict.fromkeys(names, True))

    assert metric_of(record("acc_a", "prompt_level_strict_acc"), None) == "prompt_level_strict_acc"
    assert metric_of(record("fidelity_kl", "exact_match,strict"), "fidelity_kl") == "fidelity_kl"
    assert metric_of(record("fidelity_kl", "acc"), None) == "acc"
    assert metric_of(record("acc_bytes", "acc", "margin"), None) == "acc"
    assert metric_of(record("acc_bytes", "margin"), None) == "acc_bytes"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"metric": "accu"}, "unknown metric of task made_task 'accu'. Did you mean 'acc'"),
        ({"tasks": ["made_tsk"]}, "unknown task with results 'made_tsk'. Did you mean 'made_task'"),
        ({"model": "someone/small"}, "unknown model with results 'someone/small'. Did you mean 'someone/small-model'"),
        ({"alpha": 1.0}, "alpha=1 is not allowed"),
        ({"max_drop": 1.0}, "max_drop=1 is not allowed"),
        ({"value_range": (0.2, 1.0)}, "outside 0.2 to 1"),
        ({"value_range": (1.0, 0.0)}, "a range of 1 to 0"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, given, message):
    results(tmp_path, {("tova", 0.5, 0.0): 0})
    with pytest.raises(UsageError, match=message):
        recommend([tmp_path], **given)


def test_folders_that_cannot_answer(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no results found in"):
        recommend([tmp_path / "empty"])
    synthetic_results.write(tmp_path / "alone", press="tova", ratio=0.5)
    with pytest.raises(UsageError, match="no result of the full cache"):
        recommend([tmp_path / "alone"])
    synthetic_results.write(tmp_path / "full")
    with pytest.raises(UsageError, match="no compressed policy"):
        recommend([tmp_path / "full"])
    synthetic_results.write(tmp_path / "two", model="a/b")
    synthetic_results.write(tmp_path / "two", model="c/d", number=1)
    with pytest.raises(UsageError, match="name one with --model: a/b, c/d"):
        recommend([tmp_path / "two"])
    synthetic_results.write(tmp_path / "mixed", torch_seed=1)
    synthetic_results.write(tmp_path / "mixed", press="tova", ratio=0.5, torch_seed=2, number=1)
    with pytest.raises(UsageError, match=r"torch_seed \(1 and 2\)|torch_seed \(2 and 1\)"):
        recommend([tmp_path / "mixed"])


def test_several_responses_to_a_prompt_are_refused(tmp_path, capsys):
    results(tmp_path, CELLS)
    for path in tmp_path.glob("results_*.json"):
        result = json.loads(path.read_text())
        result["configs"][synthetic_results.TASK]["metadata"] = {"num_responses": 3}
        path.write_text(json.dumps(result))
    assert main(["recommend", str(tmp_path)]) == 2
    assert "has num_responses=3 documents of each prompt, which are not independent" in capsys.readouterr().err


def test_what_is_left_out_for_one_reason_is_one_line(tmp_path, capsys):
    ratios = [0.2, 0.3, 0.4, 0.5]
    results(tmp_path / "a", {("tova", ratio, 0.0): 0 for ratio in ratios}, task="one")
    results(tmp_path / "b", {("tova", 0.2, 0.0): 0}, task="two")
    assert main(["recommend", str(tmp_path)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Left out"))
    assert re.fullmatch(r"Left out: tova ratio=0\.\d and 2 more \(--json lists them\): no result of every task\.", line)
