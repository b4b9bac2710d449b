"""What kvpress keeps by presses that know a model beforehand or replay its context, against what ours keep with the
same statistics and the same replay: the same positions. And what its own code measures of the model, against ours."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from kvpress_reference import Kept, KvpressReference
from layer_recorder import record
from numpy_weights import numbered_model, numbered_tokens
from statistics_text import REQUEST, measured_tokens
from transformers import PreTrainedModel

from fairkv_eval.engine.check import attach_checked
from fairkv_eval.engine.engine import Engine
from fairkv_eval.engine.jobs import Generation, Job
from fairkv_eval.eviction import statistics
from fairkv_eval.prompts.tokens import Prompt

REFERENCE = KvpressReference("statistics")
REPLAYING = [case for case, entry in REFERENCE.cases.items() if entry["press"] == "kvzip"]
SETTINGS = REFERENCE.settings()


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind, case, ratio", [setting for setting in SETTINGS if setting[1] in names])


def test_the_reference_is_whole_and_its_models_are_ours() -> None:
    REFERENCE.check_whole()
    presses = {case["press"] for case in REFERENCE.cases.values()}
    assert presses == {"qfilter", "expected_attention_stats", "duo_attention", "kvzip"}


@of(*REFERENCE.cases.keys() - {*REPLAYING})
def test_the_same_positions(kind: str, case: str, ratio: float) -> None:
    assert torch.equal(REFERENCE.ours(kind, case, ratio), REFERENCE.theirs(kind, case, ratio))


@cache
def attached(kind: str) -> tuple[PreTrainedModel, list[int | None]]:
    model = numbered_model(kind, REFERENCE.models[kind]["seed"])
    return model, attach_checked(model)


@of(*REPLAYING)
def test_the_same_positions_after_the_same_replay(kind: str, case: str, ratio: float) -> None:
    engine, kept = Engine(*attached(kind), ask=lambda request: REQUEST), Kept()
    tokens = (*numbered_tokens(REFERENCE.n, REFERENCE.models[kind]["seed"]), 3)
    policy = REFERENCE.policy(case, ratio)
    engine.watch(Job(Prompt(tokens, REFERENCE.n), policy, Generation(1), "here"), kept)
    theirs = REFERENCE.theirs(kind, case, ratio)
    assert torch.equal(torch.stack(kept.by_layer), theirs)


@pytest.mark.parametrize("kind", REFERENCE.models)
def test_ours_measures_what_theirs_measures(kind: str) -> None:
    layers = record(numbered_model(kind, REFERENCE.models[kind]["seed"]), measured_tokens())
    ours = [{**statistics.expected_attention(layer, sinks=4), **statistics.duo_attention(layer)} for layer in layers]
    # kvpress leaves out the norm of Qwen3's queries and keys here: it asks the wrong module for it.
    for name in ("mean", "covariance", *(["retrieval"] if kind == "llama" else [])):
        measured, theirs = torch.stack([part[name] for part in ours]), REFERENCE.measured(kind)[name]
        torch.testing.assert_close(measured.float(), theirs.float(), atol=1e-4, rtol=1e-4)
