"""What is published of a result: fields on a list, each with the form that its value must have.

Everything else stays at home: documents, prompts, answers, texts of templates and instructions, the machine, its paths,
and whatever a later harness adds. A listed value of another form is withheld: a digest stands for it, so that results
that differ in it stay apart.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

from fairkv_eval.eviction.policy_arguments import ARGUMENTS
from fairkv_eval.model_sources import NOT_ANSWERING
from fairkv_eval.provenance import model_name
from fairkv_eval.results.foreign_tasks import foreign_config_sha256

_NAME = re.compile(r"[\w.+:=,@%#-]{1,100}")  # neither a path nor a sentence
_HUB_NAME = re.compile(r"[\w.-]{1,60}/[\w.-]{1,60}")
_SPLITTER = re.compile(r"[\w.-]+ from [\w.-]+ [\w.]+")
_STOP = re.compile(r"[^/\\]{0,8}")  # a string that ends an answer, such as two line breaks

Form = Callable[[Any], Any]


def published(result: Mapping[str, Any]) -> dict[str, Any]:
    """The published fields of a result."""
    return dict(_listed(_OF_RESULT)(result))


def published_sample(line: Mapping[str, Any]) -> dict[str, Any]:
    """The published fields of a sample: hashes, and the metrics that are numbers."""
    hashes = {name: line[name] for name in _OF_SAMPLE if name in line}
    metrics = [name for name in line.get("metrics") or () if _numbers(line.get(name)) is not None]
    prompts = {"prompts": _prompts(line["prompts"])} if line.get("prompts") else {}
    return {**_listed(_OF_SAMPLE)(hashes), **prompts, "metrics": metrics, **{name: line[name] for name in metrics}}


def name(value: Any) -> Any:
    """A value that is a number, a name, or a name of the hub; withheld if it is not."""
    if isinstance(value, (bool, int, float, type(None))):
        return value
    text = isinstance(value, str)
    return value if text and (value == "" or _NAME.fullmatch(value) or _HUB_NAME.fullmatch(value)) else withheld(value)


def withheld(value: Any) -> str:
    """What stands for a value that is not published."""
    text = json.dumps(value, sort_keys=True, default=str)
    return f"withheld-{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _listed(forms: Mapping[str, Form]) -> Form:
    """A mapping, of which the listed keys stay."""
    return lambda value: (
        {key: form(value[key]) for key, form in forms.items() if key in value} if isinstance(value, Mapping) else None
    )


def _each(form: Form) -> Form:
    """A mapping of any names, or a list, each of whose values has this form."""

    def formed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(name(key)): form(entry) for key, entry in value.items()}
        return [form(entry) for entry in value] if isinstance(value, list) else form(value)

    return formed


def _number(value: Any) -> Any:
    """A number, also as text; None for anything else."""
    if isinstance(value, str):
        return value if re.fullmatch(r"-?[\d.]{1,30}|N/A", value) else None
    return value if isinstance(value, (bool, int, float)) else None


def _numbers(value: Any) -> Any:
    """A number or a list of numbers; None for anything else."""
    if isinstance(value, list):
        return value if all(isinstance(entry, (bool, int, float)) for entry in value) else None
    return value if isinstance(value, (bool, int, float)) else None


def _metrics(value: Any) -> Any:
    """A task's metrics with their standard errors, and its name."""
    return {
        key: entry if key in ("name", "alias") and name(entry) == entry else _number(entry)
        for key, entry in value.items()
        if key in ("name", "alias") or _number(entry) is not None
    }


def _model(value: Any) -> Any:
    return name(model_name(value)) if isinstance(value, str) and not value.startswith("package ") else value


def _arguments(value: Any) -> Any:
    """Model arguments: those that can change an answer; what names a source by its name alone."""
    kept = {key: entry for key, entry in value.items() if key not in NOT_ANSWERING}
    return {
        str(name(key)): _model(entry)
        if key in ("pretrained", "model", "peft", "delta", "tokenizer")
        else _nested(entry)
        for key, entry in kept.items()
    }


def _nested(value: Any) -> Any:
    return _each(_nested)(value) if isinstance(value, (Mapping, list)) else name(value)


def _stop(value: Any) -> Any:
    if isinstance(value, list):
        return [_stop(entry) for entry in value]
    return value if isinstance(value, str) and _STOP.fullmatch(value) else name(value)


def _generation(value: Any) -> Any:
    return {str(name(key)): _stop(entry) for key, entry in value.items()} if isinstance(value, Mapping) else None


def _source(value: Any) -> Any:
    """Where a task's YAML is, from tasks/ on; else its name."""
    parts = PurePath(str(value)).parts
    start = parts.index("tasks") if "tasks" in parts else len(parts) - 1
    inside = parts[start:] if all(_NAME.fullmatch(part) for part in parts[start:]) else (withheld(value),)
    return "/".join(inside)


def _metadata(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return None
    return {
        str(name(key)): _source(entry) if key == "config_source" else _nested(entry)
        for key, entry in value.items()
        if key not in ("declared", "description", *NOT_ANSWERING, "pretrained", "peft", "delta", "tokenizer")
    }


def _task_config(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return None
    digest = foreign_config_sha256(value)
    kept = _listed(_OF_CONFIG)(value)
    return {**kept, "config_sha256": digest} if digest else kept


def _splitter(value: Any) -> Any:
    return value if isinstance(value, str) and _SPLITTER.fullmatch(value) else name(value)


_OF_SAMPLE: dict[str, Form] = dict.fromkeys(("doc_id", "filter", "doc_hash", "prompt_hash", "target_hash"), name)

# Of a prompt: hashes, and where its segments are in tokens. Not the text.
_OF_PROMPT: dict[str, Form] = {
    **dict.fromkeys(("sha256", "template_sha256", "chat", "scope", "segments"), name),
    **dict.fromkeys(("tokens", "context_tokens", "truncated_tokens"), _number),
    "ranges": _each(_listed({"name": name, "start": _number, "stop": _number})),
}


def _prompts(value: Any) -> list[Any]:
    return [_listed(_OF_PROMPT)(entry) for entry in value] if isinstance(value, list) else []


# Of a task: what its conditions are made of, and the options that it was run with.
_OF_CONFIG: dict[str, Form] = {
    **dict.fromkeys(("task", "dataset_name", "output_type", "repeats"), name),
    "num_fewshot": _number,
    "generation_kwargs": _generation,
    "metadata": _metadata,
}
# The policy, what it did and cost, and where the numbers come from. Not the command, which has the typed texts.
_OF_FAIRKV: dict[str, Form] = {
    **dict.fromkeys((entry.name for entry in ARGUMENTS), _nested),
    **dict.fromkeys(("press", "base", "press_sha256", "sets_amount", "segments", "scope", "chat"), name),
    **dict.fromkeys(("parameters", "versions", "identity"), _nested),
    **dict.fromkeys(("context_field", "attn_implementation", "commit", "model_sha256", "chat_template_by"), name),
    **dict.fromkeys(("contexts", "context_tokens", "generated_tokens", "answers_cut", "achieved_ratio"), _number),
    **{f"kv_{what}_{which}": _number for what in ("bytes", "pairs") for which in ("full", "kept")},
    **{f"{kind}_tokens": _number for kind in ("prefill", "shared", "replay", "tail", "decode")},
    **{f"{kind}_tokens_per_second": _number for kind in ("prefill", "tail", "decode")},
    "fewshot_delimiter": _stop,
    "notes": _each(_number),
    "sentence_splitter": _splitter,
    "sweep": _listed(
        {
            **{"cell": name, "fidelity": _number, "requests_sha256": name},
            **dict.fromkeys(("run", "answers_by_commit"), _each(_number)),
        },
    ),
}
_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")
_OF_RUN: dict[str, Form] = {
    **dict.fromkeys(("model", "model_dtype", "model_revision", "model_sha", "peft_sha", "delta_sha"), name),
    **dict.fromkeys(("model_num_parameters", "limit", "bootstrap_iters", *_SEEDS), _number),
    **dict.fromkeys(("batch_size", "device"), name),
    "model_args": _arguments,
    "gen_kwargs": _generation,
    "fairkv": _listed(_OF_FAIRKV),
}
_OF_RESULT: dict[str, Form] = {
    "results": _each(_metrics),
    "configs": _each(_task_config),
    **dict.fromkeys(("versions", "n-shot", "higher_is_better", "n-samples", "task_hashes"), _nested),
    "config": _listed(_OF_RUN),
    **dict.fromkeys(("date", "total_evaluation_time_seconds", "fewshot_as_multiturn"), _number),
    **dict.fromkeys(("max_length", "eot_token_id"), _number),
    **dict.fromkeys(("git_hash", "transformers_version", "lm_eval_version", "model_source"), name),
    **dict.fromkeys(("system_instruction_sha", "chat_template_sha"), name),
    "model_name": _model,
}
