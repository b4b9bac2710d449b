"""The only seam to transformers: one registered attention function, and exact attention over ragged keys.

A model attached to the seam is called with ``kv=<phase>``; unknown keyword arguments travel through its forward to the
attention function, which hands queries, keys and values (after RoPE) to the phase and does nothing else. No hooks, no
patched modules, no globals, no ``past_key_values``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.errors import UnsupportedModelError

NAME = "fairkv"

# Keyword arguments that reach an attention function and change nothing it computes here: positions are applied
# before it, and the rest asks for outputs nobody reads.
_INERT = {
    "cache_position",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "training",
    "use_cache",
}


def attach(model: PreTrainedModel) -> None:
    """Make a model's attention layers call the phase they are given. UnsupportedModelError where they cannot."""
    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, NotImplementedError) as error:
        name = model.config.model_type
        raise UnsupportedModelError(f"{name!r} models have no attention interface: {error}") from error


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,  # off in evaluation
    scaling: float | None = None,
    kv: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query ``[1, heads, n, dim]``, key and value ``[1, kv_heads, n, dim]`` to ``[1, n, heads, dim]``."""
    if kv is None:
        raise RuntimeError("a model attached to fairkv runs through its engine only: no kv=<phase> was given")
    if attention_mask is not None:
        raise UnsupportedModelError(f"{type(module).__name__} brings an attention mask of its own")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Some models view the output, which the phases give transposed.
    return kv.attend(query, key, value, scaling, _options(module, kwargs)).contiguous(), None


def _options(module: nn.Module, kwargs: dict[str, Any]) -> Options:
    window, softcap = kwargs.pop("sliding_window", None), kwargs.pop("softcap", None)
    strange = sorted(name for name, value in kwargs.items() if value is not None and name not in _INERT)
    if strange:
        raise UnsupportedModelError(f"{type(module).__name__} attends with {', '.join(strange)}, unknown here")
    return Options(window, softcap)
