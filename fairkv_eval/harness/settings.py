"""The settings of a model: its typed arguments, sorted by who takes them and checked before anything is loaded."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar

import torch
from lm_eval.models.huggingface import HFLM

from fairkv_eval import headlines
from fairkv_eval.engine.captured import COMPILE
from fairkv_eval.engine.linear import LINEAR, TORCH
from fairkv_eval.engine.memory import memory_budget
from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.eviction import policy_arguments
from fairkv_eval.eviction.argument import count
from fairkv_eval.eviction.policy import Policy
from fairkv_eval.eviction.press_files import load_press
from fairkv_eval.harness.hf_values import check_values
from fairkv_eval.prompts.settings import PromptSettings

log = logging.getLogger(__name__)

Init = TypeVar("Init", bound=Callable[..., None])

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


@dataclass(frozen=True)
class Settings:
    """The arguments of one model, sorted.

    policy, prompts: from the arguments of `policy_arguments` and of `PromptSettings`. hf: the arguments of `hf`.
    max_prefill_tokens: tokens of one packed forward pass. kv_memory: what ``batch_size=auto`` may fill with KV pairs,
    in GiB, or below 1 as a part of the free memory. attn_implementation: see `attach`.
    compile: ``auto`` records decode steps on a CUDA device and replays them, ``off`` runs all of them eagerly.
    linear: what multiplies by the matrices of linear layers, see `linear`.
    """

    policy: Policy
    prompts: PromptSettings
    hf: Mapping[str, Any]
    max_prefill_tokens: int = 4096
    kv_memory: float = 0.5
    attn_implementation: str = "auto"
    compile: str = "auto"
    linear: str = TORCH

    def __post_init__(self) -> None:
        count("max_prefill_tokens", self.max_prefill_tokens)
        if self.compile not in COMPILE:
            raise unknown("compile", self.compile, COMPILE)
        if self.linear not in LINEAR:
            raise unknown("linear", self.linear, LINEAR)
        memory_budget(self.kv_memory, torch.device("cpu"))  # refuses a wrong value

    @property
    def rounding(self) -> dict[str, Any]:
        """Arguments of this class that change how answers round, if they are not the defaults."""
        return {} if self.linear == TORCH else {"linear": self.linear}

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Settings:
        """Sort typed arguments. UsageError for an unknown name, or a value that is not allowed."""
        policy, others = Policy.split(arguments)
        prompts = PromptSettings(**_popped(others, _defaults_of(PromptSettings)))
        values = _popped(others, _defaults_of(cls))
        settings = cls(policy, prompts, others, **values)
        _check_names(others, {*defaults(), *policy.parameter_defaults})
        check_values(others)
        if policy.press is not None and not policy.evicts and policy.decode_budget is None:
            log.warning("press=%s with ratio=0 evicts nothing", policy.press.name)
        return settings


def defaults() -> dict[str, Any]:
    """The arguments that this package adds to those of `hf`, with their defaults."""
    return {**_defaults_of(PromptSettings), **_defaults_of(Settings), **policy_arguments.DEFAULTS}


def shows_settings(init: Init) -> Init:
    """Show the settings, which a constructor takes among its ``**arguments``, in its signature and help.

    Its ``argument_names`` are for builders of documents, to which the harness passes the model's arguments as well.
    """
    signature = inspect.signature(init)
    *named, arguments = signature.parameters.values()
    settings = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=v) for name, v in defaults().items()]
    init.__signature__ = signature.replace(parameters=[*named, *settings, arguments])  # type: ignore[attr-defined]
    init.argument_names = argument_names  # type: ignore[attr-defined]
    return init


def argument_names(arguments: Mapping[str, Any]) -> set[str]:
    """The names that `Settings.of` takes beside these arguments, of which a press decides its parameters, and the
    option of printed tables, which no builder of documents reads. UsageError for another value of it than all."""
    if arguments.get(headlines.CHOICE, "all") != "all":
        raise UsageError(f"metadata {headlines.CHOICE}={arguments[headlines.CHOICE]!r} is not allowed; it takes 'all'")
    press = load_press(arguments.get("press", "none"), arguments.get("base"))
    return {*defaults(), *_hf_names(), headlines.CHOICE, *(press.parameters if press else ())}


def _hf_names() -> set[str]:
    return set(inspect.signature(HFLM.__init__).parameters) - {"self", "kwargs"} | _FROM_PRETRAINED


def _defaults_of(kind: Any) -> dict[str, Any]:
    return {field.name: field.default for field in fields(kind) if field.default is not MISSING}


def _popped(arguments: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: arguments.pop(name) for name in names if name in arguments}


def _check_names(hf: Mapping[str, Any], others: set[str]) -> None:
    """UsageError for a name that `hf` does not have, or has and cannot be used here. others: names taken already."""
    allowed = _hf_names()
    for name in hf:
        if name not in allowed:
            raise unknown("model argument", name, allowed | others)
    if hf.get("tp_plan") is not None:
        raise UsageError(
            f"tp_plan={hf['tp_plan']!r} is not supported: tensor parallelism splits the heads of a layer over "
            "processes, and presses compare a layer's heads. parallelize=true spreads layers over devices, "
            "accelerate launch documents over processes"
        )
