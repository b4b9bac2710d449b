"""Response entropy: what dense attention over the whole sequence gives, only where it is asked for, up to the table."""

from __future__ import annotations

import math
from typing import Any

import dense_reference
import pytest
import tiny
import torch
from engine_runs import attached, prompt, run
from hypothesis import given, settings
from hypothesis import strategies as st
from press_table import policy

from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.engine.sampling import Sampling, entropy
from fairkv_eval.errors import UsageError
from fairkv_eval.files import resource_dir
from fairkv_eval.harness.response import Response
from fairkv_eval.metrics import telemetry
from fairkv_eval.model import FairKV

SAMPLING = Sampling(do_sample=True, temperature=0.7, top_k=3, seed=5)


@pytest.fixture(scope="module")
def llama() -> Any:
    return attached()


def slow_entropy(model: Any, job: Job, said: tuple[int, ...]) -> float:
    """Mean over the answer's tokens, summed word by word in double precision."""
    sequence = dense_reference.Sequencing(model, job)
    first = len(sequence.tokens) - 1
    sequence.extend(said)
    total = 0.0
    for row in sequence.logits()[first:-1].double():
        weights = [math.exp(x - float(row.max())) for x in row.tolist()]
        shares = [w / sum(weights) for w in weights]
        total -= sum(p * math.log(p) for p in shares if p)
    return total / len(said)


def test_equals_the_slow_reference(llama: Any) -> None:
    wants = [Generation(5, entropy=True), Generation(3, entropy=True, sampling=SAMPLING), Generation(1, entropy=True)]
    jobs = [
        Job(prompt(i, 24 + i), policy(name, 0.6, fair), want, f"doc {i}")
        for i, (want, name, fair) in enumerate(
            zip(wants * 2, ["tova", "knorm", "snapkv small"] * 2, [0, 1] * 3, strict=True)
        )
    ]
    results, _ = run(llama, jobs, rows=3)
    for job, result in zip(jobs, results, strict=True):
        expected = slow_entropy(llama[0], job, result.tokens)
        assert result.telemetry["response_entropy"] == pytest.approx(expected, abs=1e-4)
        assert 0.1 < expected < math.log(tiny.VOCABULARY)


def test_rows_that_do_not_ask_are_not_told_and_answer_the_same(llama: Any) -> None:
    jobs = [Job(prompt(i), policy("tova", 0.5), Generation(6, entropy=asks), "") for i in range(4) for asks in (0, 1)]
    results, _ = run(llama, jobs, rows=8)
    assert ["response_entropy" in result.telemetry for result in results] == [False, True] * 4
    assert all(a.tokens == b.tokens for a, b in zip(results[::2], results[1::2], strict=True))


@given(st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=40))
@settings(max_examples=60)
def test_lies_between_certainty_and_a_fair_draw(logits: list[float]) -> None:
    found = float(entropy(torch.tensor([logits]))[0])
    assert -1e-6 <= found <= math.log(len(logits)) + 1e-5
    assert float(entropy(torch.zeros(1, len(logits)))[0]) == pytest.approx(math.log(len(logits)), abs=1e-5)


def test_generation_kwargs_ask_for_it() -> None:
    lm = FairKV(tiny.model(), tokenizer=tiny.tokenizer(), batch_size=4, press="tova", ratio=0.5)

    def reported(**kwargs: Any) -> dict[str, float]:
        return telemetry(lm.generate_until([tiny.generation("Some text", max_gen_toks=4, **kwargs)])[0])

    assert reported(entropy=True)["response_entropy"] > 0
    assert reported(entropy=False).keys() == reported().keys() == reported(entropy=True).keys() - {"response_entropy"}
    with pytest.raises(UsageError, match="task tiny, doc 0: entropy='yes' is not allowed; it takes true or false"):
        reported(entropy="yes")
    with pytest.raises(UsageError, match="Did you mean 'entropy'"):
        reported(entrpy=True)


@pytest.mark.parametrize("entropy", [None, 1.25])
def test_the_harness_reports_it_where_it_was_asked_for(entropy: float | None) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.api.model import LM
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import make_table

    class Teller(LM):
        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            known = {"keep_rate": 0.5, "segments": {}, "kv_bytes_full": 8, "kv_bytes_kept": 4}
            return [Response("No.", known | ({"response_entropy": entropy} if entropy else {})) for _ in requests]

        def loglikelihood(self, requests: Any) -> Any: ...

        def loglikelihood_rolling(self, requests: Any) -> Any: ...

    tasks = ["sys_ifeval_demo", "raccoon_demo"]
    manager = TaskManager(include_path=str(resource_dir("tasks")), include_defaults=False)
    results = simple_evaluate(Teller(), tasks=tasks, task_manager=manager, bootstrap_iters=0, limit=4)
    for task in tasks:
        assert results["results"][task].get("response_entropy,none") == entropy
        assert results["results"][task]["keep_rate,none"] == 0.5
    assert ("response_entropy" in make_table(results)) == bool(entropy)
