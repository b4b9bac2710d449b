"""A tiny random model as a GGUF file, weights in blocks of eight bits, with a byte tokenizer and a chat template."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from tiny import CHATML, SPECIAL
from tokenizers import pre_tokenizers

_WIDTH, _INNER, _LAYERS, _HEADS, _KV_HEADS = 64, 96, 2, 4, 2
_MERGED = ["th", "er"]
_NORMAL, _CONTROL = 1, 3  # kinds of tokens


def write_gguf(path: Path, seed: int = 0) -> Path:
    """Write the file, and return its path."""
    writer = GGUFWriter(str(path), "llama")
    _add_tokenizer(writer)
    writer.add_context_length(1024)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_INNER)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    generator = np.random.default_rng(seed)
    for name, shape in _shapes().items():
        values = generator.normal(scale=0.2, size=shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, 1 + values)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: GGUFWriter) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *_MERGED, *SPECIAL]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([_NORMAL] * (len(tokens) - len(SPECIAL)) + [_CONTROL] * len(SPECIAL))
    writer.add_token_merges([" ".join(token) for token in _MERGED])
    writer.add_bos_token_id(tokens.index("<|bos|>"))
    writer.add_eos_token_id(tokens.index("<|end|>"))
    writer.add_chat_template(CHATML)


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (256 + len(_MERGED) + len(SPECIAL), _WIDTH)}
    narrow = _WIDTH * _KV_HEADS // _HEADS
    for layer in range(_LAYERS):
        of_layer: dict[str, tuple[int, ...]] = {
            "attn_norm": (_WIDTH,),
            "attn_q": (_WIDTH, _WIDTH),
            "attn_k": (narrow, _WIDTH),
            "attn_v": (narrow, _WIDTH),
            "attn_output": (_WIDTH, _WIDTH),
            "ffn_norm": (_WIDTH,),
            "ffn_gate": (_INNER, _WIDTH),
            "ffn_up": (_INNER, _WIDTH),
            "ffn_down": (_WIDTH, _INNER),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in of_layer.items()}
    return {**shapes, "output_norm.weight": (_WIDTH,)}
