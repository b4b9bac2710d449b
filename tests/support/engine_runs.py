"""Policies, prompts and jobs on tiny models, run through the engine and checked against the slow reference."""

from __future__ import annotations

import dense_reference
import pytest
import tiny
import torch

from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Job, LogLikelihood
from fairkv_eval.engine.result import Result
from fairkv_eval.engine.runner import Runner
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.tokens import Prompt

# A model that scales its embeddings and reads its answer off them, as Gemma does, repeats its last token whatever it
# attends to; with an output layer of its own it does not.
SIZES: dict[str, dict] = {
    "mistral": {"sliding_window": 9},
    "gemma2": {"sliding_window": 9, "attn_logit_softcapping": 5.0, "tie_word_embeddings": False},
    "cohere": {"tie_word_embeddings": False},
}


def attached(kind: str = "llama", dtype: torch.dtype = torch.float32, **sizes):
    """A tiny model of this kind and the sliding windows of its layers."""
    model = tiny.model(kind, dtype, **{**SIZES.get(kind, {}), **sizes})
    return model, attach_checked(model)


def ask(text: str) -> list[int]:
    """A short request, to keep the dense passes small."""
    return list(text.encode())[:12]


def prompt(seed: int, n: int = 24, context: int = 18, cut: int = 7) -> Prompt:
    tokens = torch.randint(0, 256, (n,), generator=torch.Generator().manual_seed(seed)).tolist()
    segments = (Segment("a", 0, cut), Segment("b", cut, context)) if 0 < cut < context else ()
    return Prompt(tuple(tokens), context, segments)


def run(attached_model, jobs: list[Job], rows: int = 4, **kwargs):
    """Results in the order of the jobs, and the engine that gave them."""
    engine = Engine(*attached_model, **{"rows": rows, "ask": ask, **kwargs})
    results = dict(engine.run(jobs))
    assert sorted(results) == list(range(len(jobs)))
    return [results[i] for i in range(len(jobs))], engine


def check(attached_model, jobs: list[Job], **kwargs) -> list[Result]:
    """Run the jobs; what comes is what the slow reference says."""
    results, _ = run(attached_model, jobs, **kwargs)
    for job, result in zip(jobs, results, strict=True):
        if isinstance(job.want, LogLikelihood):
            logprob, greedy = dense_reference.score(attached_model[0], job, ask)
            assert (result.logprob, result.greedy) == (pytest.approx(logprob, abs=1e-4), greedy)
        else:
            assert len(result.tokens) == job.want.max_tokens
            assert list(result.tokens) == dense_reference.answer(attached_model[0], job, result.tokens, ask)
    return results


def assert_same(result: Result, expected: Result) -> None:
    """The same tokens and telemetry; log-likelihoods up to rounding."""
    assert result.tokens == expected.tokens
    assert result.logprob == pytest.approx(expected.logprob, abs=1e-4)
    assert result.telemetry.keys() == expected.telemetry.keys()
    for name, value in expected.telemetry.items():
        rounded = pytest.approx(value, abs=1e-4) if name == "choice_logprob" else value
        assert result.telemetry[name] == rounded, name


def positions_run(monkeypatch) -> list[list[int]]:
    """The positions of every forward pass from now on."""
    seen: list[list[int]] = []
    forward = Runner.forward

    def spy(self, phase, tokens, positions, wanted):
        seen.append(positions)
        return forward(self, phase, tokens, positions, wanted)

    monkeypatch.setattr(Runner, "forward", spy)
    return seen
