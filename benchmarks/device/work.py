"""The model and the amounts of the device check: those of a device, and the smallest ones for a dry run."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

# Shaped as Llama 3.1 8B. The special tokens are those of the byte tokenizer in tests/support.
LLAMA_8B = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
    "pad_token_id": None,
    "bos_token_id": 258,
    "eos_token_id": 257,
}
SMALLEST = {
    **LLAMA_8B,
    **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "head_dim": 16, "vocab_size": 259, "max_position_embeddings": 1024},
}


@dataclass(frozen=True)
class Work:
    """How much is run. tail: tokens after the context; most_rows: tried as "as many as fit"; pass_tokens: of one
    prefill pass; long: tokens of the context that presses score; batches: tried with `hf`, of ``prompts`` prompts."""

    device: str = "cuda"
    sizes: dict[str, Any] = field(default_factory=lambda: LLAMA_8B)
    dtype: torch.dtype = torch.bfloat16
    prefill: tuple[int, ...] = (1024, 8192)
    pass_tokens: int = 8192
    context: int = 1024
    tail: int = 16
    rows: tuple[int, ...] = (32, 64, 256)
    most_rows: int = 2048
    ratios: tuple[float, ...] = (0.0, 0.5, 0.9)
    steps: int = 10
    long: int = 8192
    prompts: int = 64
    batches: tuple[int, ...] = (32, 64)
    new_tokens: int = 64

    @cached_property
    def model(self) -> Any:
        """A Llama with random weights, made on the device."""
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        with torch.device(self.device):
            config = AutoConfig.for_model("llama", **self.sizes)
            return AutoModelForCausalLM.from_config(config, dtype=self.dtype).eval()

    def tokens(self, n: int, seed: int) -> tuple[int, ...]:
        """Random ones, bytes of the tokenizer."""
        return tuple(torch.randint(0, 256, (n,), generator=torch.Generator().manual_seed(seed)).tolist())


DRY = Work(
    device="cpu",
    sizes=SMALLEST,
    dtype=torch.float32,
    prefill=(48, 160),
    pass_tokens=160,
    context=40,
    tail=4,
    rows=(2, 3),
    most_rows=4,
    steps=2,
    long=160,
    prompts=4,
    batches=(2, 4),
    new_tokens=4,
)


def parse(description: str | None) -> Work:
    """The amounts that the command line wants."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--dry", action="store_true", help="the smallest amounts, on the CPU")
    return DRY if parser.parse_args().dry else Work()
