"""Tiny random models and a byte tokenizer: everything the fast tests need, made in milliseconds."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from fairkv_eval.prompts.chat_document import MARK

CHATML = (
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SPECIAL = ["<|start|>", "<|end|>", "<|bos|>"]
VOCABULARY = 256 + len(SPECIAL)

# Weights an order of magnitude above the usual start, so that attention decides what a random model says.
_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": 258,
    "eos_token_id": 257,
}


def tokenizer(template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """One token a byte, and a ChatML-like template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|bos|>", eos_token="<|end|>")
    fast.add_special_tokens({"additional_special_tokens": ["<|start|>"]})
    fast.chat_template = template
    return fast


def model(kind: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **sizes: Any) -> PreTrainedModel:
    """A random causal language model of this kind, in evaluation mode."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **{**_SIZES, **sizes})
    return AutoModelForCausalLM.from_config(config).eval().to(dtype)


def generation(text: str, doc: dict | None = None, doc_id: int = 0, **kwargs: Any) -> Instance:
    """A generate_until request of the task `tiny`."""
    return Instance("generate_until", doc or {}, (text, {"until": [], **kwargs}), 0, ("tiny", doc_id, 1))


def scoring(context: str, continuation: str, doc: dict | None = None, doc_id: int = 0) -> Instance:
    """A loglikelihood request of the task `tiny`."""
    return Instance("loglikelihood", doc or {}, (context, continuation), 0, ("tiny", doc_id, 1))


def chat_doc(system: str, user: str, *segments: tuple[str, str]) -> dict:
    """A document as our tasks make them: messages and declared segments."""
    return {
        MARK: True,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
        "segments": [{"name": name, "text": text} for name, text in segments],
    }
