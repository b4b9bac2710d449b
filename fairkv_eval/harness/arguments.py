"""The model arguments: which are this package's, which the press's, which `hf`'s, and what is wrong with the others."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from lm_eval.models.huggingface import HFLM

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.prompts.whitelist import parse_keep

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


def read_policy(
    press: str, base: str | None, settings: Mapping[str, Any], rest: Mapping[str, Any], own: set[str]
) -> tuple[Policy, dict[str, Any]]:
    """The policy, and the arguments that are for `hf`.

    ``settings`` are the policy's own arguments, ``keep_text`` among them. ``rest`` mixes the press's parameters with
    those of `hf`; ``own`` are the names this package takes itself. Raises UsageError for a name nobody knows and a
    value out of bounds.
    """
    rule = load_press(press, base)
    parameters = set(rule.parameters) if rule else set()
    harness = set(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"}
    for name in rest:
        if name not in parameters | harness | _FROM_PRETRAINED:
            raise unknown("model argument", name, parameters | harness | _FROM_PRETRAINED | own)
    if rest.get("tp_plan") is not None:
        raise UsageError(
            f"tp_plan={rest['tp_plan']!r} is not supported: tensor parallelism splits the heads of a layer over "
            "processes, and presses compare a layer's heads. parallelize=true spreads layers over devices, "
            "accelerate launch documents over processes"
        )
    given = {k: v for k, v in rest.items() if k in parameters}
    others = {k: v for k, v in settings.items() if k not in ("fair", "keep", "keep_text")}
    fair = settings["fair"]
    policy = Policy(
        rule,
        rule.configure(given) if rule else (),
        fair=float(fair) if isinstance(fair, bool) else fair,
        keep=parse_keep(settings["keep"], settings["keep_text"]),
        **others,
    )
    if rule is not None and not policy.evicts and policy.decode_budget is None:
        log.warning("press=%s with ratio=0 evicts nothing", rule.name)
    return policy, {k: v for k, v in rest.items() if k not in parameters}
