"""The model arguments: which are this package's, which the press's, which `hf`'s, and what is wrong with the others."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from lm_eval.models.huggingface import HFLM

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.policy_arguments import DEFAULTS, NAMES

Init = TypeVar("Init", bound=Callable[..., None])

log = logging.getLogger(__name__)

# Arguments of transformers' from_pretrained that HFLM passes on; anything else a user types is a mistake.
_FROM_PRETRAINED = {
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "bnb_4bit_use_double_quant",
    "cache_dir",
    "device_map",
    "force_download",
    "load_in_4bit",
    "load_in_8bit",
    "local_files_only",
    "low_cpu_mem_usage",
    "max_memory",
    "offload_buffers",
    "offload_state_dict",
    "proxies",
    "quantization_config",
    "token",
    "use_safetensors",
    "variant",
}


def read_policy(arguments: Mapping[str, Any], names: Iterable[str]) -> tuple[Policy, dict[str, Any]]:
    """The policy, and the arguments that are for `hf`.

    ``arguments`` mixes those of the policy, its press's parameters among them, with those of `hf`; ``names`` are the
    other arguments that the model takes. Raises UsageError for an unknown name and a value that is not allowed.
    """
    policy, others = Policy.split(arguments)
    harness = set(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"} | _FROM_PRETRAINED
    for name in others:
        if name not in harness:
            raise unknown("model argument", name, {*harness, *NAMES, *policy.parameter_defaults, *names})
    if others.get("tp_plan") is not None:
        raise UsageError(
            f"tp_plan={others['tp_plan']!r} is not supported: tensor parallelism splits the heads of a layer over "
            "processes, and presses compare a layer's heads. parallelize=true spreads layers over devices, "
            "accelerate launch documents over processes"
        )
    if policy.press is not None and not policy.evicts and policy.decode_budget is None:
        log.warning("press=%s with ratio=0 evicts nothing", policy.press.name)
    return policy, others


def with_policy_arguments(init: Init) -> Init:
    """Show the arguments of a policy, which a constructor takes among its ``**kwargs``, in its signature and help."""
    signature = inspect.signature(init)
    *others, kwargs = signature.parameters.values()
    policy = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=DEFAULTS[name]) for name in NAMES]
    init.__signature__ = signature.replace(parameters=[*others, *policy, kwargs])  # type: ignore[attr-defined]
    return init
