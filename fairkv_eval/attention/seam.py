"""The only seam to transformers: one registered attention function, and the phase that it hands each layer to.

A model attached to the seam is called with ``kv=<phase>``. Unknown keyword arguments travel through its forward to the
attention function, which hands queries, keys and values (after RoPE) to the phase and does nothing else. No hooks, no
patched modules, no globals, no ``past_key_values``.
"""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from fairkv_eval.attention.backend import Options
from fairkv_eval.attention.output_projection import OutputProjection
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


class Phase(Protocol):
    """One forward pass through an attached model: it attends in every layer, in the layers' order."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, options: Options) -> Tensor:
        """q ``[1, heads, m, dim]``, k and v ``[1, kv_heads, m, dim]`` of one layer to ``[1, m, heads, dim]``.

        m is the number of tokens of the pass, packed one after another.
        """
        ...


def attach(model: PreTrainedModel) -> None:
    """Make a model's attention layers call the phase of the pass. UnsupportedModelError if they cannot."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, NotImplementedError) as error:
        name = model.config.model_type
        raise UnsupportedModelError(f"{name!r} models have no attention interface: {error}") from error


def embedding(model: PreTrainedModel) -> Tensor:
    """A model's input embedding ``[vocabulary, dim]``."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,  # off in evaluation
    scaling: float | None = None,
    kv: Phase | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query ``[1, heads, n, dim]``, key and value ``[1, kv_heads, n, dim]`` to ``[1, n, heads, dim]``."""
    if kv is None:
        raise RuntimeError("a model attached to fairkv runs through its engine only: no kv=<phase> was passed")
    if attention_mask is not None:
        raise UnsupportedModelError(f"{type(module).__name__} brings an attention mask of its own")
    options = _options(module, query.shape[-1] ** -0.5 if scaling is None else scaling, kwargs)
    # Some models view the output, which the phases return transposed.
    return kv.attend(query, key, value, options).contiguous(), None


def _options(module: nn.Module, scaling: float, kwargs: dict[str, Any]) -> Options:
    window, softcap = kwargs.pop("sliding_window", None), kwargs.pop("softcap", None)
    unknown = sorted(name for name, value in kwargs.items() if value is not None and name not in _INERT)
    if unknown:
        raise UnsupportedModelError(f"{type(module).__name__} attends with {', '.join(unknown)}, unknown here")
    return Options(scaling, window, softcap, OutputProjection(module))
