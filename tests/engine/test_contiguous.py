"""positions=contiguous: kept keys stand at consecutive positions and the tail goes on behind them.

The reference turns keys caught before their rotation, with the model's own functions.
"""

from __future__ import annotations

from typing import Any

import dense_reference
import pytest
import torch
from engine_runs import attached, check, positions_run, prompt, run
from press_table import policy
from torch import Tensor

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.sdpa import masked
from fairkv_eval.engine.jobs import Generation, Job, LogLikelihood
from fairkv_eval.errors import UsageError


def scaled(rope_type: str, **parameters) -> dict:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 8.0, **parameters}}


# Keys normed before they turn, sliding windows, half of the channels, pairs side by side, scaled frequencies.
KINDS: dict[str, tuple[str, dict]] = {
    "llama": ("llama", {}),
    "yarn": ("llama", scaled("yarn", original_max_position_embeddings=16)),
    "llama3": (
        "llama",
        scaled("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    "qwen3": ("qwen3", {}),
    "gemma2": ("gemma2", {}),
    "glm": ("glm", {}),
    "cohere": ("cohere", {}),
}


@pytest.fixture(scope="module")
def llama():
    return attached()


def moved(name: str = "tova", ratio: float = 0.5, fair: float = 0.0, keep: tuple = (), **given):
    return policy(name, ratio, fair, keep, positions="contiguous", **given)


@pytest.mark.parametrize("name", KINDS)
def test_the_reference_turns_keys_as_the_model_does(name: str) -> None:
    kind, sizes = KINDS[name]
    model, _ = attached(kind, **sizes)
    tokens = prompt(0).tokens
    with dense_reference.Unturned(model) as unturned:
        phase = dense_reference.Dense()
        dense_reference.logits_of(model, tokens, phase)
        for index, layer in enumerate(phase.layers):
            assert not torch.allclose(unturned.keys[index], layer.k, atol=1e-2)
            torch.testing.assert_close(unturned.turn(index, range(len(tokens)), range(len(tokens))), layer.k)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_rotation_equals_the_slow_reference(name: str) -> None:
    """Plain, partly and wholly fair, whitelisted and scored rows, beside one whose keys stay where they were."""
    kind, sizes = KINDS[name]
    short, long = prompt(0, 24, 18, 4), prompt(1, 40, 33, 20)
    jobs = [
        Job(short, moved("tova", 0.6), Generation(6), ""),
        Job(short, moved("h2o", 0.6, 0.4, keep=("a",)), Generation(6), ""),
        Job(long, moved("snapkv small", 0.8, 1.0), Generation(6), ""),
        Job(long, moved("snapkv small", 0.8, 1.0), LogLikelihood((5, 77, 130)), ""),
        Job(long, policy("snapkv small", 0.8, 1.0), Generation(6), ""),
        Job(prompt(2, 9, 6, 2), moved("streaming_llm", 0.0, sinks=1, budget=2), LogLikelihood((5, 77)), ""),
        Job(prompt(3, 9, 0, 0), moved(), Generation(3), ""),
    ]
    check(attached(kind, **sizes), jobs, rows=5)


@pytest.mark.parametrize(
    "name", ["random", "knorm", "keydiff", "lagkv small", "expected_attention small", "chunkkv small"]
)
@pytest.mark.parametrize("fair", [0.0, 1.0])
def test_every_press_that_keeps_equally_many(llama, name: str, fair: float) -> None:
    check(llama, [Job(prompt(4), moved(name, 0.6, fair), want, "") for want in (Generation(5), LogLikelihood((7, 8)))])


def test_it_is_not_what_original_positions_give(llama) -> None:
    jobs = [Job(prompt(5), own("tova", 0.6), LogLikelihood((5, 77, 130)), "") for own in (moved, policy)]
    (a, b), _ = run(llama, jobs)
    assert abs(a.logprob - b.logprob) > 1e-2
    jobs = [Job(prompt(5), own("tova", 0.0), LogLikelihood((5, 77, 130)), "") for own in (moved, policy)]
    (a, b), _ = run(llama, jobs)
    assert a.logprob == b.logprob


def test_the_tail_goes_on_behind_the_kept_keys(llama, monkeypatch) -> None:
    seen = positions_run(monkeypatch)
    run(llama, [Job(prompt(6, 24, 18), moved("tova", 0.9), Generation(3), "")])
    assert seen == [list(range(18)), list(range(1, 7)), [7], [8]]


class Published:
    """StreamingLLM (arXiv 2309.17453): keys are cached before their rotation, and every token's own position and that
    of each cached key is its place in the cache."""

    def __init__(self, model, sinks: int, size: int | None) -> None:
        self.model, self.sinks, self.size = model, sinks, size
        self.cache: list[list[Tensor]] = []  # of each layer, keys and values [kv_heads, m, dim]
        self.layer = 0

    def start(self, context, n_kept: int) -> None:
        """The context runs uncompressed; its first tokens and its last are cached."""
        with dense_reference.Unturned(self.model) as unturned:
            phase = dense_reference.Dense()
            dense_reference.logits_of(self.model, context, phase)
        kept = [*range(self.sinks), *range(len(context) - n_kept + self.sinks, len(context))]
        self.cache = [[unturned.keys[i][:, kept], layer.v[:, kept]] for i, layer in enumerate(phase.layers)]

    def say(self, token: int) -> int:
        """Run one token and drop the oldest after the sinks where the cache is full; the greedy next token."""
        with dense_reference.Unturned(self.model) as self.unturned:
            self.layer = 0
            logits = dense_reference.logits_of(self.model, [token], self, [self.cache[0][0].shape[1]])
        if self.size is not None:
            for entries in self.cache:
                while entries[0].shape[1] > self.size:
                    stay = [i for i in range(entries[0].shape[1]) if i != self.sinks]
                    entries[:] = [entry[:, stay] for entry in entries]
        return int(logits[-1].argmax())

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        keys, values = self.cache[self.layer]
        keys, values = torch.cat([keys, self.unturned.keys[self.layer]], 1), torch.cat([values, v[0]], 1)
        self.cache[self.layer] = [keys, values]
        turned = self.unturned.rotate(keys, range(keys.shape[1]))
        torch.testing.assert_close(turned[:, -1:], k[0])
        self.layer += 1
        return masked(q[0], turned, values, None, options).transpose(0, 1)[None]


@pytest.mark.parametrize("size", [None, 16])
@pytest.mark.parametrize("sinks", [0, 4])
def test_streaming_llm_is_as_published(llama, sinks: int, size: int | None) -> None:
    p = prompt(7, 24, 20, 0)
    given: Any = {} if size is None else {"decode_budget": size, "decode_every": 1}
    own = moved("streaming_llm", 0.5, sinks=sinks, **given)
    (result,), _ = run(llama, [Job(p, own, Generation(24), "")])
    published = Published(llama[0], sinks, size)
    published.start(p.tokens[:20], 10)
    for token in p.tokens[20:]:
        following = published.say(token)
    for token in result.tokens:
        assert token == following
        following = published.say(token)


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_positions_that_are_no_rotation_cannot_move(kind: str) -> None:
    model = attached(kind)
    with pytest.raises(UsageError, match=r"doc 3: positions=contiguous: how layer 0 turns its keys .* is not known"):
        run(model, [Job(prompt(8), moved(), Generation(2), "doc 3")])
