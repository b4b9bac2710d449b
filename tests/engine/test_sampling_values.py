"""Settings of a model's generation config: followed as transformers does, or refused."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from transformers import GenerationConfig

from fairkv_eval.engine.sampling import Sampler, Sampling
from fairkv_eval.errors import UsageError

PROMPT = [5, 6, 7, 5, 6]
FOLLOWED: list[dict[str, Any]] = [
    {"no_repeat_ngram_size": 2},
    {"bad_words_ids": [[7], [5, 6]]},
    {"suppress_tokens": [3, 9]},
    {"begin_suppress_tokens": [4]},
    {"min_new_tokens": 3},
    {"min_length": 9},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 1.3, "suppress_tokens": [1]},
]


@pytest.mark.parametrize("settings", FOLLOWED, ids=str)
def test_followed_as_transformers_follows_it(settings: dict[str, Any]) -> None:
    model = tiny.model()
    eos = int(model(torch.tensor([PROMPT])).logits[0, -1].argmax())  # what it says first ends the answer, if it may
    config = GenerationConfig(eos_token_id=eos, pad_token_id=eos, **settings)
    expected = model.generate(torch.tensor([PROMPT]), generation_config=config, max_new_tokens=6, do_sample=False)
    sampler, tokens = Sampler(Sampling.of({}, config, seed=0), PROMPT), list(PROMPT)
    while len(tokens) < len(PROMPT) + 6 and (len(tokens) == len(PROMPT) or tokens[-1] != eos):
        tokens.append(sampler.choose(model(torch.tensor([tokens])).logits[0, -1].float()))
    assert tokens == expected[0].tolist()
    assert not sampler.greedy


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        {"forced_bos_token_id": 3},
        {"forced_eos_token_id": 3},
        {"guidance_scale": 2.0},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"exponential_decay_length_penalty": (3, 1.2)},
        {"sequence_bias": [[[3], 2.0]]},
        {"stop_strings": ["x"]},
        {"max_time": 3.0},
    ],
    ids=str,
)
def test_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"the model's generation config has {next(iter(settings))}="):
        Sampling.of({}, GenerationConfig(**settings), seed=0)


def test_the_request_can_leave_out_what_is_refused() -> None:
    config = GenerationConfig(num_beams=4)
    assert Sampling.of({"num_beams": 1}, config, seed=0) == Sampling()


def test_the_config_of_a_model_that_sets_nothing_is_followed() -> None:
    assert (
        Sampling.of({}, GenerationConfig(), seed=0) == Sampling.of({}, tiny.model().generation_config, 0) == Sampling()
    )
