"""Whether a model's heads can be divided as a policy's storage wants it, and the storage can fit a budget in bytes."""

from __future__ import annotations

from transformers import PreTrainedModel

from fairkv_eval.engine.memory import entries
from fairkv_eval.eviction.policy import Policy

_LONG = 1 << 20  # tokens, of which a window that stays plain is next to nothing


def check_storage(model: PreTrainedModel, policy: Policy) -> None:
    """UsageError if a layer's keys or values do not fit the storage, or without a press no context would fit its share
    of bytes. The model is attached to the seam."""
    if policy.storage.plain:
        return
    of_layers = entries(model)
    for entry in {*of_layers}:
        storage = policy.storage if entry.window is None else policy.storage.all_channels
        storage.codecs(storage.n_channels(entry.key_dim), entry.value_dim, entry.dtype)
    if policy.press is None and isinstance(policy.budget_bytes, float):
        policy.n_kept(_LONG, of_layers)
