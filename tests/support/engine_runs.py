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
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.prompts.segments import Segment
from fairkv_eval.prompts.tokens import Prompt

# Every press, with parameters small enough for small contexts to show them.
PRESSES: dict[str, dict] = {
    "streaming_llm": {},
    "snapkv": {"window": 4},
    "h2o": {},
    "h2o recent": {"recent": 0.5},
    "tova": {},
    "knorm": {},
    "random": {},
    "pyramidkv": {"window": 3, "beta": 4},
    "kvzip": {},
    "kvzip uniform": {"uniform": True},
    "kvzip chunk": {"chunk": 7},
    "expected_attention": {"sinks": 2, "horizon": 20},
    "keydiff": {},
    "lagkv": {"sinks": 2, "lag": 3},
    "adakv": {"window": 4},
    "adakv h2o": {"base": "h2o", "recent": 0.3},
    "adakv tova": {"base": "tova", "safeguard": 0.0},
    "adakv knorm": {"base": "knorm", "safeguard": 1.0},
    "adakv pyramidkv": {"base": "pyramidkv", "window": 3, "beta": 2},
    "chunkkv": {"window": 4, "chunk": 3},
    "chunkkv knorm": {"base": "knorm", "chunk": 5},
}
# Budgets that differ from head to head, or from layer to layer.
UNEVEN = [name for name in PRESSES if name.startswith(("pyramidkv", "kvzip", "adakv"))]
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


def policy(name: str = "tova", ratio: float = 0.5, fair: float = 0.0, keep: tuple = (), **given) -> Policy:
    """A policy with one of PRESSES by its name there, or with any press; what is no parameter of it is the policy's."""
    given = {**PRESSES.get(name, {}), **given}
    press = load_press(name.split()[0], given.pop("base", None))
    own = {key: given.pop(key) for key in ("budget", "positions", "decode_budget", "decode_every") if key in given}
    return Policy(press, press.configure(given) if press else (), ratio, fair, keep, **own)


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


def positions_run(monkeypatch) -> list[list[int]]:
    """The positions of every forward pass from now on."""
    seen: list[list[int]] = []
    forward = Runner.forward

    def spy(self, phase, tokens, positions, wanted):
        seen.append(positions)
        return forward(self, phase, tokens, positions, wanted)

    monkeypatch.setattr(Runner, "forward", spy)
    return seen
