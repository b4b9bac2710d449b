"""The hidden states that enter attention layers; an attention function sees only the queries, keys and values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def watched(attentions: Iterable[nn.Module], receive: Callable[[Tensor], None]) -> Iterator[None]:
    """Hand the hidden states ``[1, m, hidden]`` that enter each of these attention modules to ``receive``, right before
    the module attends.

    These are the only hooks on a model, for the passes inside and for rules that weigh queries by their hidden states:
    a query does not say how long the state was that it was made of.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        receive(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in attentions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
