"""Fidelity to the full cache: the figures by loops over dense attention, and in a sweep's files and journal."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import dense_reference
import engine_runs
import numpy as np
import press_table
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax, rel_entr
from tiny_sweeps import cell_files, cell_metrics, tiny_sweep

from fairkv_eval.engine.fidelity import METRICS, Lead, fidelity
from fairkv_eval.engine.jobs import Fidelity, Generation, Job
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.run import run_sweep

pytestmark = pytest.mark.usefixtures("only_these_tasks")

LOGITS = arrays(np.float64, (2, 4, 6), elements=st.floats(-20, 20))


@given(LOGITS)
def test_divergence_is_scipys(logits: np.ndarray) -> None:
    full, policy = log_softmax(logits, axis=-1)
    ours = fidelity(torch.tensor(full), torch.tensor(policy))
    assert ours["fidelity_kl"] == pytest.approx(rel_entr(np.exp(full), np.exp(policy)).sum(-1).mean(), abs=1e-9)
    same = [int(a) == int(b) for a, b in zip(full.argmax(-1), policy.argmax(-1), strict=True)]
    assert ours["fidelity_top1"] == sum(same) / 4
    assert ours["fidelity_first_disagreement"] == (same.index(False) if False in same else 4)


def test_tokens_that_neither_allows_add_nothing() -> None:
    logits = torch.tensor([[0.0, 1.0, -torch.inf]])
    assert Lead().compare(logits) == {"fidelity_kl": 0, "fidelity_top1": 1, "fidelity_first_disagreement": 1}


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_policies_along_the_full_caches_answer_as_dense_loops_have_them(kind: str) -> None:
    attached = engine_runs.attached(kind)
    policies = [
        Policy(),
        *(press_table.policy(name, 0.6, fair) for name in ("tova", "snapkv small", "adakv small") for fair in (0, 1)),
    ]
    prompt = engine_runs.prompt(3)
    (said,), _ = engine_runs.run(attached, [Job(prompt, Policy(), Generation(9), "answer")])
    want = Fidelity(said.tokens, Lead())
    jobs = [Job(prompt, policy, want, "follow") for policy in policies]
    results = [engine_runs.run(attached, jobs[:1])[0][0], *engine_runs.run(attached, jobs[1:])[0]]
    distributions = []
    for job in jobs:
        sequence = dense_reference.Sequencing(attached[0], job, engine_runs.ask)
        sequence.extend(said.tokens)
        distributions.append(sequence.logits()[-len(said.tokens) - 1 : -1].double().softmax(-1).tolist())
    apart = 0
    for result, policy in zip(results, distributions, strict=True):
        divergences, same = [], []
        for p, q in zip(distributions[0], policy, strict=True):
            divergences.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0))
            same.append(p.index(max(p)) == q.index(max(q)))
        assert result.fidelity is not None
        assert result.fidelity["fidelity_kl"] == pytest.approx(sum(divergences) / len(divergences), abs=1e-4)
        assert result.fidelity["fidelity_top1"] == pytest.approx(sum(same) / len(same))
        assert result.fidelity["fidelity_first_disagreement"] == (same.index(False) if False in same else len(same))
        apart += result.fidelity["fidelity_kl"] > 0.01
    assert results[0].fidelity["fidelity_kl"] == 0 and apart >= 4


def test_a_sweep_adds_it_later_and_keeps_its_answers(
    task_folder: Path,
    unbroken: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "later"
    shutil.copytree(unbroken, output)
    run, ran = FairKV.run, []

    def only_follows(self, jobs, at_most=None):
        assert all(isinstance(job.want, Fidelity) for job in jobs)
        ran.append(len(jobs))
        return run(self, jobs, at_most)

    monkeypatch.setattr(FairKV, "run", only_follows)
    run_sweep(tiny_sweep(task_folder, output, fidelity=True))
    completed, previous = cell_files(output), cell_files(unbroken)
    assert completed.keys() == previous.keys()
    for (task, policy), (result, samples) in completed.items():
        metrics = result["results"][task]
        old_metrics = {k: v for k, v in metrics.items() if not k.startswith("fidelity")}
        assert old_metrics == previous[task, policy][0]["results"][task]
        config, old_config = result["config"]["fairkv"], previous[task, policy][0]["config"]["fairkv"]
        assert config["sweep"]["fidelity"] == (task != "pick")
        # The answers are an earlier run's, and so is what they cost.
        assert config["sweep"]["run"] == old_config["sweep"]["run"]
        assert not any(name.endswith("_per_second") for name in config)  # several cells shared the run
        if task == "pick":
            assert not any(name in sample for sample in samples for name in METRICS)
            continue
        for name, higher in METRICS.items():
            column = [sample[name] for sample in samples]
            assert all(name in sample["metrics"] for sample in samples)
            assert metrics[f"{name},none"] == pytest.approx(np.mean(column))
            assert metrics[f"{name}_stderr,none"] == pytest.approx(np.std(column, ddof=1) / math.sqrt(len(column)))
            assert result["higher_is_better"][task][name] is higher
        assert (metrics["fidelity_kl,none"] == 0) == (policy == "full")
    # A second time nothing runs; a cell whose files are lost is written again from the journal.
    ran.clear()
    lost = next(output.glob("model/say/tova_ratio=0.5-*"))
    shutil.rmtree(lost)
    run_sweep(tiny_sweep(task_folder, output, fidelity=True))
    assert not ran and cell_metrics(output) == {k: (v["results"], s) for k, (v, s) in completed.items()}
    assert json.loads(next(lost.glob("results_*")).read_text())["results"]["say"]["fidelity_kl,none"] > 0
