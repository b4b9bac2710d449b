"""The load-time self-check: what passes, what is refused by name, and that it sees a broken attention."""

from dataclasses import replace

import pytest
import tiny
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from fairkv_eval.attention import sdpa
from fairkv_eval.engine import check
from fairkv_eval.errors import UnsupportedModelError

GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 64}
OPT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "ffn_dim": 96,
    "word_embed_proj_dim": 64,
    "max_position_embeddings": 64,
    "vocab_size": 64,
}
SOUND = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "mistral": {"sliding_window": 5},
    "mixtral": {"num_local_experts": 4},
    "phi3": {},
    "gemma2": {"sliding_window": 5, "attn_logit_softcapping": 5.0},
    "gemma3_text": {"sliding_window": 5},
    "olmo2": {},
    "granite": {},
    "cohere2": {"sliding_window": 5},
    "gpt_neox": {},
    "smollm3": {},
    "starcoder2": {},
}
REFUSED = {
    "gpt_oss": ({"num_local_experts": 4}, "s_aux"),
    "bloom": ({}, "0 times"),
    "mamba": ({}, "linear_attention"),
    "qwen3_next": ({}, "linear_attention"),
    "llama4_text": ({}, "chunked_attention"),
}


@pytest.mark.parametrize("kind", SOUND)
def test_sound_architectures_pass(kind: str) -> None:
    assert len(check.attach_checked(tiny.model(kind, **SOUND[kind]))) == 3


@pytest.mark.parametrize(("kind", "sizes"), [("gpt2", GPT2), ("opt", OPT)])
def test_architectures_with_sizes_of_their_own_pass(kind: str, sizes: dict) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes)).eval()
    assert len(check.attach_checked(model)) == 2


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_seam_would_run_wrong_is_refused_by_name(kind: str) -> None:
    sizes, reason = REFUSED[kind]
    with pytest.raises(UnsupportedModelError, match=f"(?s){kind}.*{reason}"):
        check.attach_checked(tiny.model(kind, **sizes))


def test_a_model_that_never_calls_the_seam_is_refused_by_name() -> None:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("falcon", **sizes)).eval()
    with pytest.raises(UnsupportedModelError, match=r"falcon.*called the attention function 0 times, not 2"):
        check.attach_checked(model)


def test_an_encoder_is_refused() -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4, "vocab_size": 64}
    model = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model("t5", **sizes)).eval()
    with pytest.raises(UnsupportedModelError, match="encoder"):
        check.attach_checked(model)


def _unscaled(self, q, k, v, options):
    return sdpa.causal(q[0], k[0], v[0], options._replace(scaling=1.0)).transpose(0, 1)[None]


def _without_window(original):
    return lambda q, k, v, options: original(q, k, v, options._replace(window=None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_sequence_that_sees_its_neighbour_is_refused(monkeypatch, dtype) -> None:
    monkeypatch.setattr(check.Prefill, "attend", _unscaled)
    with pytest.raises(UnsupportedModelError, match="packed prefill"):
        check.attach_checked(tiny.model("llama", dtype))


def test_a_window_that_is_not_honoured_is_refused(monkeypatch) -> None:
    monkeypatch.setattr("fairkv_eval.attention.sdpa.causal", _without_window(sdpa.causal))
    with pytest.raises(UnsupportedModelError, match="logits differ from its own attention's"):
        check.attach_checked(tiny.model("mistral", sliding_window=5))


def test_a_broken_decode_is_refused(monkeypatch) -> None:
    def forgets_the_last(*args):
        (shown,) = original(*args)
        step = shown.step
        fewer = replace(step, positions=step.positions - 1, shortest=step.shortest - 1, longest=step.longest - 1)
        return [shown._replace(step=fewer)]

    original = check.RowCache.append
    monkeypatch.setattr(check.RowCache, "append", forgets_the_last)
    with pytest.raises(UnsupportedModelError, match="decode"):
        check.attach_checked(tiny.model("llama"))


@pytest.mark.parametrize(
    ("rope", "limit"),
    [
        ({"rope_type": "default", "rope_theta": 1e4}, None),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, None),
        ({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, 1024),
        (
            {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 4.0,
                "short_factor": [1.0] * 8,
                "long_factor": [4.0] * 8,
                "original_max_position_embeddings": 256,
            },
            256,
        ),
    ],
)
def test_a_rope_that_depends_on_its_neighbours_bounds_the_length(rope: dict, limit: int | None) -> None:
    assert check.length_limit(tiny.model("llama", rope_parameters=rope).config) == limit


@pytest.mark.parametrize("words", range(259, 267))
def test_sequences_are_compared_whatever_their_order(words: int) -> None:
    """A prefill packs contexts by their tokens, and these are drawn from the vocabulary."""
    assert len(check.attach_checked(tiny.model("llama", vocab_size=words))) == 3
