"""The next token: what transformers would choose from, and draws that depend on a request's own seed only."""

from __future__ import annotations

import hashlib
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from fairkv_eval.engine.sampling import Sampler, Sampling, request_seed
from fairkv_eval.errors import UsageError

VOCABULARY = 200


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """A tiny random model, only for transformers' own generate() to run on."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=64, initializer_range=1.0, **sizes)
    return LlamaForCausalLM(config).eval()


class TestLikeTransformers:
    @pytest.mark.parametrize(
        "defaults", [{}, {"temperature": 0.6, "top_p": 0.9}, {"top_k": 7, "repetition_penalty": 1.3}]
    )
    @pytest.mark.parametrize(
        "kwargs",
        [
            {},
            {"do_sample": True},
            {"do_sample": True, "temperature": 0.7},
            {"do_sample": True, "top_k": 3},
            {"do_sample": True, "top_k": 0},
            {"do_sample": True, "top_p": 0.5, "temperature": 2.0},
            {"do_sample": True, "min_p": 0.3},
            {
                "do_sample": True,
                "temperature": 1.4,
                "top_k": 20,
                "top_p": 0.8,
                "min_p": 0.05,
                "repetition_penalty": 1.5,
            },
            {"do_sample": False, "repetition_penalty": 1.2},
        ],
    )
    def test_same_choice_of_tokens(self, model: LlamaForCausalLM, kwargs: dict, defaults: dict) -> None:
        """`generate` shows the logits of the model and what its processors made of them."""
        prompt = [5, 9, 9, 70]
        model.generation_config = GenerationConfig(pad_token_id=0, do_sample=bool(defaults), **defaults)
        out = model.generate(
            torch.tensor([prompt]),
            **{"do_sample": False, **kwargs},
            max_new_tokens=1,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
        )
        sampler = Sampler(Sampling.of(kwargs, model.generation_config, seed=1), prompt)
        found = sampler.processors(torch.tensor([prompt]), out.logits[0].float())
        torch.testing.assert_close(found, out.scores[0].float())
        assert sampler.greedy == (
            not kwargs.get("do_sample") and {**defaults, **kwargs}.get("repetition_penalty", 1) == 1
        )
        if not kwargs.get("do_sample"):
            assert sampler.choose(out.logits[0][0].float()) == int(out.sequences[0, -1])

    def test_the_penalty_counts_prompt_and_answer(self) -> None:
        sampler = Sampler(Sampling(repetition_penalty=2.0), [0])
        logits = torch.tensor([3.0, 2.5, 2.0, 1.0])
        assert [sampler.choose(logits) for _ in range(3)] == [1, 2, 0]


class TestOf:
    def test_greedy_is_the_default_whatever_the_model_says(self) -> None:
        own = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
        assert Sampling.of({}, own, seed=3) == Sampling.of({}, None, seed=9) == Sampling()
        assert Sampling.of({"temperature": 0.0, "do_sample": False, "num_beams": 1}, own, seed=3) == Sampling()

    def test_the_request_wins_over_the_model(self) -> None:
        own = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9)
        found = Sampling.of({"do_sample": True, "temperature": 1.1, "top_k": None}, own, seed=3)
        assert found == Sampling(do_sample=True, temperature=1.1, top_p=0.9, seed=3)

    @pytest.mark.parametrize(
        "name, nearest",
        [("temprature", "temperature"), ("num_beams", "min_p"), ("max_gen_tokens", "max_gen_toks"), ("seed", "")],
    )
    def test_an_unknown_argument_names_the_nearest(self, name: str, nearest: str) -> None:
        with pytest.raises(UsageError, match=f"unknown generation argument '{name}'") as error:
            Sampling.of({name: 4, "do_sample": True}, None, seed=0)
        assert "until" in str(error.value) and "top_p" in str(error.value)
        if nearest in ("temperature", "max_gen_toks"):
            assert f"Did you mean '{nearest}'?" in str(error.value)

    @pytest.mark.parametrize("temperature", [0, 0.0])
    def test_sampling_needs_a_temperature(self, temperature: float) -> None:
        with pytest.raises(UsageError, match=r"temperature=.* cannot be sampled at; it takes a number above 0"):
            Sampling.of({"do_sample": True, "temperature": temperature}, None, seed=0)


class TestDraws:
    def draws(self, seed: int, count: int = 20, **settings: float) -> list[int]:
        sampler = Sampler(Sampling(do_sample=True, seed=seed, **settings), [1, 2])
        logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(4))
        return [sampler.choose(logits) for _ in range(count)]

    def test_depend_on_the_seed_only(self) -> None:
        torch.manual_seed(1)
        first = self.draws(11)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        assert self.draws(11) == first != self.draws(12)
        assert torch.equal(torch.get_rng_state(), state)

    def test_companions_change_nothing(self) -> None:
        logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(4))
        rows = [Sampler(Sampling(do_sample=True, seed=seed), [1, 2]) for seed in (11, 12, 13)]
        together = [[row.choose(logits) for row in rows] for _ in range(20)]
        assert [list(column) for column in zip(*together, strict=True)] == [self.draws(seed) for seed in (11, 12, 13)]

    def test_follow_the_probabilities(self) -> None:
        probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
        sampler = Sampler(Sampling(do_sample=True, seed=0), [])
        counts = Counter(sampler.choose(probabilities.log()) for _ in range(2000))
        for token, probability in enumerate(probabilities.tolist()):
            assert abs(counts[token] / 2000 - probability) < 0.04

    @given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=30))
    @settings(max_examples=50)
    def test_greedy_takes_the_largest(self, logits: list[float]) -> None:
        sampler = Sampler(Sampling(), [1, 2, 3])
        assert sampler.greedy
        assert logits[sampler.choose(torch.tensor(logits))] == max(logits)


class TestRequestSeed:
    def test_is_the_same_everywhere(self) -> None:
        digest = hashlib.sha256(b"(1234, 'sys_ifeval', 7, 0, 0)").hexdigest()
        assert request_seed(1234, "sys_ifeval", 7, 0, 0) == int(digest[:16], 16) // 2

    def test_is_distinct_for_every_part(self) -> None:
        parts = [
            (seed, task, doc, repeat) for seed in (0, 1) for task in "ab" for doc in range(20) for repeat in (0, 1)
        ]
        seeds = {request_seed(*part) for part in parts}
        assert len(seeds) == len(parts) and all(0 <= seed < 2**63 for seed in seeds)
        assert request_seed(1, 23) != request_seed(12, 3)
