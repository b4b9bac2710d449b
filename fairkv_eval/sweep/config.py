"""What a sweep is: its YAML (or the same keys as flags), read and checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal, InvalidOperation
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from fairkv_eval.command_line import SEEDS
from fairkv_eval.errors import UsageError, naming, unknown
from fairkv_eval.eviction.policy_arguments import AMOUNTS, NAMES

_LOGGERS = ("wandb_args", "wandb_config_args", "hf_hub_log_args")
_GRID = ("ratios", "budgets", "fair")


@dataclass(frozen=True)
class Sweep:
    """Models × policies × tasks, and the settings that all cells share.

    models: fairkv's model arguments, without those of a policy. policies: distinct ones; the full cache is one of
    them, whatever press has a ratio of 0. The other fields are the harness's options of that name.
    """

    models: tuple[dict[str, Any], ...]
    policies: tuple[Any, ...]
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
    device: str = "cuda:0"  # the harness's default: the first GPU, or the CPU where there is none
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
    return {**(_load(Path(path)) if path is not None else {}), **(flags or {})}


def read_sweep(path: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Sweep:
    """The sweep in a YAML file and flags. UsageError names the file, the key, the value and what is allowed."""
    given = read_keys(path, flags)
    with naming(str(path) if path is not None else "flags"):
        return sweep_of(given)


def sweep_of(given: Mapping[str, Any]) -> Sweep:
    """A sweep from its keys (see README)."""
    shared = {field.name for field in fields(Sweep)} - {"policies"}
    allowed = shared | {"model_args", "presses", *_GRID}
    for key in given:
        if key not in allowed:
            raise unknown("key", key, allowed)
    for key in ("tasks", "output_path"):
        if not given.get(key):
            raise UsageError(
                f"{key} is missing: it names {'what is run' if key == 'tasks' else 'a folder for results'}"
            )
    settings = {key: _setting(key, given[key]) for key in shared & given.keys() if given[key] is not None}
    settings["models"] = tuple(_models(given.get("models"), given.get("model_args")))
    settings["policies"] = _policies(given)
    sweep = Sweep(**settings)
    _check_generation(sweep.gen_kwargs)
    return sweep


def _load(path: Path) -> dict[str, Any]:
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no YAML ({error})") from error
    if not isinstance(given, dict):
        raise UsageError(f"{path}: a sweep is a mapping of keys, not {type(given).__name__}")
    return given


# --- the settings that cells share


def _setting(key: str, value: Any) -> Any:
    """One of the harness's options in the type it has there."""
    if key in ("gen_kwargs", "metadata", *_LOGGERS):
        return dict(_mapping(key, value))
    if key in ("tasks", "include_path"):
        entries = [entry.strip() for entry in value.split(",")] if isinstance(value, str) else value
        if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
            raise UsageError(f"{key}={value!r} is not allowed; it takes a list of names")
        return tuple(dict.fromkeys(entries))
    if key == "output_path":
        return Path(_of_kind(key, value, (str, Path), "a folder"))
    if key == "seed":
        return _seeds(value)
    if key == "limit":
        return _above_zero(key, value, (int, float), "a number above 0 (below 1: a fraction of the documents)")
    if key == "batch_size":
        return value if value == "auto" else _above_zero(key, value, int, "a whole number from 1, or auto")
    if key in ("num_fewshot", "bootstrap_iters"):
        return _above_zero(key, value, int, "a whole number from 0", least=0)
    if key in ("fewshot_as_multiturn", "confirm_run_unsafe_code", "fidelity"):
        return _of_kind(key, value, bool, "true or false")
    if key == "apply_chat_template":
        return _of_kind(key, value, (bool, str), "true, false or the name of a template")
    return value if key == "models" else _of_kind(key, value, str, "a text")


def _of_kind(key: str, value: Any, kind: Any, allowed: str) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{key}={value!r} is not allowed; it takes {allowed}")
    return value


def _above_zero(key: str, value: Any, kind: Any, allowed: str, least: float | None = None) -> Any:
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits or (value <= 0 if least is None else value < least):
        raise UsageError(f"{key}={value!r} is not allowed; it takes {allowed}")
    return value


def _seeds(value: Any) -> tuple[int, ...]:
    seeds = value if isinstance(value, list) else [value] * 4
    whole = all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not whole or len(seeds) != 4:
        raise UsageError(
            f"seed={value!r} is not allowed; it takes a whole number, or four (Python, numpy, torch, few-shot examples)"
        )
    return tuple(seeds)


def _mapping(key: str, value: Any) -> Mapping[str, Any]:
    """A mapping, or ``a=1,b=2`` as the harness's command line takes it."""
    if isinstance(value, str):
        from lm_eval.utils import simple_parse_args_string

        if "=" not in value:
            raise UsageError(f"{key}={value!r} is not allowed; it takes a mapping, or name=value,name=value")
        value = simple_parse_args_string(value)
    return _of_kind(key, value, Mapping, "a mapping of names to values")


def _check_generation(given: Mapping[str, Any] | None) -> None:
    from lm_eval.models.utils import normalize_gen_kwargs

    from fairkv_eval.engine.sampling import Sampling

    if given is None:
        return
    settings: dict[str, Any] = dict(normalize_gen_kwargs(dict(given)))
    most = settings.pop("max_gen_toks")
    settings.pop("until", None)
    with naming("gen_kwargs"):
        _above_zero("max_gen_toks", most, int, "a whole number from 1")
        Sampling.of(settings, None, 0)


# --- models


def _models(models: Any, common: Any) -> Iterator[dict[str, Any]]:
    shared = _mapping("model_args", common) if common is not None else {}
    entries = [{}] if models is None else models if isinstance(models, list) else [models]
    if not entries:
        raise UsageError("models is empty; leave it out for the default model")
    for entry in entries:
        own = {"pretrained": entry} if isinstance(entry, str) and "=" not in entry else _mapping("models", entry)
        arguments = {**shared, **own}
        _check_model(arguments)
        yield arguments


def _check_model(given: Mapping[str, Any]) -> None:
    """UsageError for an argument that fairkv would refuse once the model is loaded, or that belongs to a policy."""
    from fairkv_eval.harness.settings import Settings

    for name in NAMES:
        if name in given:
            raise UsageError(f"{name}={given[name]!r} is no argument of a sweep's model; it goes under presses")
    for name, key in (("batch_size", "batch_size"), ("device", "device"), ("max_batch_size", "batch_size")):
        if name in given:
            raise UsageError(f"{name}={given[name]!r} goes beside the model's arguments: {key}: …")
    with naming("model arguments"):
        Settings.of(given)


# --- policies


def _policies(given: Mapping[str, Any]) -> tuple[Any, ...]:
    from fairkv_eval.eviction.policy import Policy

    presses = given.get("presses")
    entries = presses if isinstance(presses, list) else [presses] if presses is not None else []
    if not entries:
        raise UsageError("presses is missing: at least one, as tova or {press: snapkv, window: [16, 64]}")
    policies: dict[Any, None] = {}
    for entry in entries:
        with naming(f"presses: {entry!r}"):
            policies.update(dict.fromkeys(_of_press(_press_entry(entry), given)))
    full = Policy()
    rolling = next((policy for policy in policies if policy.decode_budget and given.get("fidelity")), None)
    if rolling:
        raise UsageError(
            f"fidelity is measured in one pass, in which decode_budget={rolling.decode_budget} evicts nothing; leave "
            "out one of them"
        )
    if full in policies or given.get("fidelity"):
        # First, so that tables begin with it; fidelity is measured against it.
        policies = {full: None, **policies}
    return tuple(policies)


def _press_entry(entry: Any) -> Mapping[str, Any]:
    if isinstance(entry, str):
        name, _, rest = entry.partition(",")
        return {**(_mapping("presses", rest) if rest else {}), "press": name.removeprefix("press=")}
    if not isinstance(entry, Mapping) or "press" not in entry:
        raise UsageError("a press is a name, or a mapping with press: <name> and its parameters")
    return entry


def _of_press(entry: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[Any]:
    """Every combination of a press's values; a list means each of its entries."""
    grid = {key: entry.get(key, given.get(key)) for key in _GRID}
    lists = {key: value if isinstance(value, list) else [value] for key, value in entry.items() if key not in _GRID}
    amounts = [("budget", budget) for budget in numbers("budgets", grid["budgets"])]
    amounts += [("ratio", ratio) for ratio in numbers("ratios", grid["ratios"])]
    if not amounts:
        raise UsageError("ratios is missing: 0:0.9:0.1, or a list of numbers from 0 to below 1 (or budgets)")
    fair = False if grid["fair"] is None else grid["fair"]
    for values in product(*lists.values()):
        for amount, degree in product(amounts, fair if isinstance(fair, list) else [fair]):
            yield _policy(dict(zip(lists, values, strict=True)), dict([amount]), degree)


def _policy(entry: dict[str, Any], amount: dict[str, Any], fair: Any) -> Any:
    from fairkv_eval.eviction.policy import Policy

    if entry["press"] == "none":
        raise UsageError("the full cache is no press: it is the cell of ratio 0")
    policy, others = Policy.split({**entry, **amount, "fair": fair})
    for name in (*others, *(name for name in AMOUNTS if name in entry)):
        allowed = {*policy.parameter_defaults, *NAMES, *_GRID} - {*AMOUNTS}
        raise unknown(f"parameter of press {policy.press_name!r}", name, allowed)
    return policy if policy.evicts or policy.decode_budget else Policy()


def numbers(key: str, value: Any) -> list[float]:
    """A number, a list of them, or a range ``start:stop:step`` that ends with ``stop``."""
    if value is None:
        return []
    found = [n for part in (value if isinstance(value, list) else [value]) for n in _range(key, part)]
    for number in found:
        if key == "ratios" and not 0 <= number < 1:
            raise UsageError(
                f"ratio {number:g} is not allowed; it takes a number from 0 to below 1 (a range stands in quotes: "
                '"0:0.9:0.1")'
            )
        if key == "budgets" and (number < 1 or number != int(number)):
            raise UsageError(f"budget {number:g} is not allowed; it takes a whole number from 1")
    return [int(number) for number in found] if key == "budgets" else found


def _range(key: str, value: Any) -> Sequence[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [float(value)]
    parts = value.split(":") if isinstance(value, str) else []
    try:
        numbers = [Decimal(part.strip()) for part in parts]
    except InvalidOperation:
        numbers = []
    if len(numbers) == 1:
        return [float(numbers[0])]
    if len(numbers) != 3 or numbers[2] <= 0 or numbers[1] < numbers[0]:
        raise UsageError(f"{key}={value!r} is not allowed; it takes numbers, or start:stop:step as 0:0.9:0.1")
    start, stop, step = numbers
    # Decimals, so that 0:0.9:0.1 holds 0.3 and not 0.30000000000000004.
    return [float(start + step * i) for i in range(int((stop - start) / step) + 1)]
