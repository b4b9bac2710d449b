"""Whether a model's heads can be divided as a policy's storage wants it."""

from __future__ import annotations

from transformers import PreTrainedModel

from fairkv_eval.engine.memory import entries
from fairkv_eval.eviction.policy import Policy


def check_storage(model: PreTrainedModel, policy: Policy) -> None:
    """UsageError if a layer's keys or values do not fit the storage. The model is attached to the seam."""
    if not policy.storage.plain:
        for entry in {*entries(model)}:
            policy.storage.codecs(entry.key_dim, entry.value_dim, entry.dtype)
