"""The configuration of a sweep: a YAML, or flags of the same names, read and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval import strict_yaml
from fairkv_eval.command_line import SEEDS
from fairkv_eval.errors import UsageError, naming, unknown
from fairkv_eval.sweep.parsers import GRID, PARSERS

if TYPE_CHECKING:
    from fairkv_eval.eviction.policy import Policy

_LOGGERS = ("wandb_args", "wandb_config_args", "hf_hub_log_args")


@dataclass(frozen=True)
class Sweep:
    """Models × policies × tasks, and the settings that all cells share.

    models: fairkv's model arguments, without those of a policy. policies: distinct ones, the full cache first if it is
    among them. fidelity: whether each is compared with the full cache. The other fields are the harness's options of
    that name.
    """

    models: tuple[dict[str, Any], ...]
    policies: tuple[Policy, ...]
    tasks: tuple[str, ...]
    output_path: Path
    limit: float | None = None
    num_fewshot: int | None = None
    gen_kwargs: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    include_path: tuple[str, ...] = ()
    apply_chat_template: bool | str = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None
    confirm_run_unsafe_code: bool = False
    batch_size: int | str = 1
    device: str = "cuda:0"  # the harness's default: the first GPU, or the CPU if there is none
    seed: tuple[int, int, int, int] = SEEDS
    bootstrap_iters: int = 100_000
    fidelity: bool = False
    wandb_args: dict[str, Any] | None = None
    wandb_config_args: dict[str, Any] | None = None
    hf_hub_log_args: dict[str, Any] | None = None

    def identity(self) -> dict[str, Any]:
        """The settings that can change a cell's numbers. Left out: device, batch size, output path, loggers."""
        names = {field.name for field in fields(self)}
        apart = {"models", "policies", "tasks", "output_path", "include_path", "batch_size", "device", *_LOGGERS}
        settings = {name: getattr(self, name) for name in sorted(names - apart)}
        # Fidelity adds metrics and changes no answer, so that a sweep can ask for it later.
        return {**settings, "fidelity": False}


def read_keys(path: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The keys of a YAML file, overridden by flags of the same name."""
    return {**(strict_yaml.load(Path(path)) if path is not None else {}), **(flags or {})}


def read_sweep(path: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Sweep:
    """The sweep in a YAML file and flags. UsageError names the file, the key, the value and what is allowed."""
    keys = read_keys(path, flags)
    with naming(str(path) if path is not None else "flags"):
        return sweep_of(keys)


def sweep_of(keys: Mapping[str, Any]) -> Sweep:
    """The sweep that these keys describe (see README)."""
    allowed = {*PARSERS, "models", "model_args", "presses", *GRID}
    for key in keys:
        if key not in allowed:
            raise unknown("key", key, allowed)
    for key, meaning in (("tasks", "what is run"), ("output_path", "a folder for results")):
        if not keys.get(key):
            raise UsageError(f"{key} is missing: it names {meaning}")
    settings = {key: PARSERS[key](key, value) for key, value in keys.items() if key in PARSERS and value is not None}
    # Importing torch takes seconds, which a wrong key need not wait for.
    from fairkv_eval.sweep.grid import policies_of
    from fairkv_eval.sweep.model_arguments import models_of

    models = tuple(models_of(keys.get("models"), keys.get("model_args")))
    grid = {key: keys.get(key) for key in GRID}
    return Sweep(models, policies_of(keys.get("presses"), grid, settings.get("fidelity", False)), **settings)
