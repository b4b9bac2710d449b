"""One result file of the harness, ours or a plain one, as records: one per task."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.eviction.policy_arguments import NAMES
from fairkv_eval.files import open_text
from fairkv_eval.headlines import CHOICE
from fairkv_eval.model_sources import NOT_ANSWERING
from fairkv_eval.pretrained import HUB_NAME, PACKAGE
from fairkv_eval.provenance import model_name, nameless
from fairkv_eval.results import published_results
from fairkv_eval.results.foreign_tasks import foreign_config_sha256, include_path
from fairkv_eval.results.published_results import published_in
from fairkv_eval.results.record import IDENTITY, Metric, Record
from fairkv_eval.results.record_check import check
from fairkv_eval.results.recorded_policy import DIVIDING, RecordedPolicy, plain
from fairkv_eval.results.sample_file import SampleFile, SampleSource
from fairkv_eval.storage.bits import PLAIN_BITS

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

KIND = "fairkv leaderboard"  # marks a leaderboard.json, which is not a result

# Arguments that a result has elsewhere: in its model's name, its dtype and its policy.
_ELSEWHERE = {"pretrained", "model", "gguf_file", "dtype", "chat", *DIVIDING, *NAMES}
# What `hf` has if they are not typed.
DEFAULTS = {
    **{"revision": "main", "subfolder": "", "backend": "default", "use_fast_tokenizer": True},
    **dict.fromkeys(("truncation", "trust_remote_code", "autogptq", "gptqmodel"), False),
}
_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


def parse(path: Path) -> list[Record]:
    """A record for each task of a result file, or of each published result; [] for a leaderboard of ours.

    The path may be that of a file before it was published, or of a folder. Raise UsageError for other or damaged files.
    """
    published = None if path.is_file() else published_in(path)
    with _as_usage_errors():
        records = _records(published or path)
        for record in records:
            check(record)
    return [record for record in records if published is None or path in (record.path, *record.path.parents)]


@contextmanager
def _as_usage_errors() -> Iterator[None]:
    """Raise UsageError for whatever is wrong with a file."""
    try:
        yield
    except UsageError:
        raise
    except json.JSONDecodeError as error:
        raise UsageError(f"not JSON, or truncated: {error}") from error
    except KeyError as error:
        raise UsageError(f"not a result of the harness: it has no {error.args[0]!r:.60}") from error
    except RecursionError as error:
        raise UsageError("not a result of the harness: it is nested too deep") from error
    except UnicodeEncodeError as error:
        raise UsageError("not a result of the harness: half a surrogate pair is no text") from error
    # Any other: a file that someone else wrote may be wrong in more ways than can be listed.
    except Exception as error:
        raise UsageError(f"not a result of the harness: {error}"[:300]) from error


def _records(path: Path) -> list[Record]:
    with open_text(path) as file:
        text = file.read()
    content = json.loads(text)
    if _SURROGATE.search(text):
        json.dumps(content, ensure_ascii=False).encode()  # a whole pair is text
    if not isinstance(content, dict):
        raise UsageError("not a result of the harness: it holds no object")
    if content.get("kind") == KIND:
        return []
    if content.get("kind") == published_results.KIND:
        results = published_results.read_results(path, content)
        return [record for result in results for record in _of_tasks(result.path, result.content, result.samples.get)]
    hashes = content.get("task_hashes") or {}
    return _of_tasks(path, content, lambda task: SampleFile.beside(path, task, hashes.get(task)))


def result_content(path: Path) -> dict[str, Any]:
    """The JSON of a result file, or of a published result by the path that it had as a file."""
    if path.is_file():
        return _object(path)
    published = published_in(path)
    if published is None:
        raise UsageError(f"no such file: {str(path)!r}")
    return _published_contents(published)[path]


def _object(path: Path) -> dict[str, Any]:
    with open_text(path) as file:
        content: dict[str, Any] = json.load(file)
    return content


@lru_cache(maxsize=1)
def _published_contents(file: Path) -> dict[Path, dict[str, Any]]:
    results = published_results.read_results(file, _object(file))
    return {result.path: result.content for result in results}


def _of_tasks(path: Path, result: dict[str, Any], source: Callable[[str], SampleSource | None]) -> list[Record]:
    tasks = [name for name in result["results"] if name in result["configs"]]  # groups have no configuration
    if not tasks:
        raise UsageError("not a result of the harness: it has no task")
    return [replace(_record(path, result, task), sample_source=source(task)) for task in tasks]


def _record(path: Path, result: dict[str, Any], task: str) -> Record:
    config, ours = result["config"], result["config"].get("fairkv") or {}
    source = result.get("model_source") or config["model"]
    if source == "fairkv" and not ours:
        raise UsageError("a result of fairkv without its policy")
    arguments = _arguments(config)
    counts = result["n-samples"][task]
    metrics = _metrics(result["results"][task], counts["effective"])
    full, kept = (_bytes(metrics, ours, name) for name in ("kv_bytes_full", "kv_bytes_kept"))
    return Record(
        path=path,
        source=source,
        model=_model(arguments, source, result),
        model_sha=ours.get("model_sha256") or config.get("model_sha") or None,
        policy=RecordedPolicy.of(ours),
        conditions=_conditions(result, task, arguments),
        task=task,
        version=result["versions"].get(task),
        metrics=metrics,
        higher_is_better=dict(result.get("higher_is_better", {}).get(task, {})),
        n=counts["effective"],
        n_original=counts["original"],
        limit=config.get("limit"),
        achieved_ratio=_achieved_ratio(metrics, ours, full, kept),
        answers_cut=ours.get("answers_cut") if len(result["configs"]) == 1 else None,  # a run counts over its tasks
        kv_bytes_full=full,
        kv_bytes_kept=kept,
        tokens_per_second={
            kind: float(ours[f"{kind}_tokens_per_second"])
            for kind in ("prefill", "tail", "decode")
            if ours.get(f"{kind}_tokens_per_second")
        },
        date=result.get("date"),
        commit=ours.get("commit") or (None if ours else result.get("git_hash")),
        versions=ours.get("versions") or _versions(result),
        task_hash=(result.get("task_hashes") or {}).get(task),
        arguments={
            **config,
            "model_args": arguments,
            "num_fewshot": result.get("n-shot", {}).get(task),
            "system_instruction": result.get("system_instruction"),
            "fewshot_as_multiturn": result.get("fewshot_as_multiturn"),
            "include_path": include_path(result["configs"][task]),
            "metadata": _options(result["configs"][task], arguments),
        },
        cell=(ours.get("sweep") or {}).get("cell"),
        repeats=result["configs"][task].get("repeats") or 1,
    )


def _arguments(config: dict[str, Any]) -> dict[str, Any]:
    arguments = config.get("model_args") or {}
    if isinstance(arguments, str):
        from lm_eval.utils import simple_parse_args_string

        arguments = simple_parse_args_string(arguments)
    return dict(arguments)


def _model(arguments: dict[str, Any], source: str, result: dict[str, Any]) -> str:
    """The model's name, without paths of the machine it ran on."""
    path = arguments.get("pretrained") or arguments.get("model")
    if path is None:
        name = HUB_NAME if source == "fairkv" else str(result.get("model_name") or source)
    else:
        name = model_name(str(path))
    name = HUB_NAME if name in (PACKAGE, f"package {PACKAGE}") else name  # the same model under its name without a hub
    added = [Path(str(arguments[kind])).name for kind in ("peft", "delta") if arguments.get(kind)]
    return " + ".join([name, *added])


def _conditions(result: dict[str, Any], task: str, arguments: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    config, configured = result["config"], result["configs"][task]
    ours = config.get("fairkv") or {}
    # A template that documents asked for is said by `chat`, and by the model's identity.
    template = None if ours.get("chat_template_by") else result.get("chat_template_sha")
    conditions = {
        "num_fewshot": result.get("n-shot", {}).get(task),
        "generation": {**(configured.get("generation_kwargs") or {}), **(config.get("gen_kwargs") or {})},
        "dtype": str(config.get("model_dtype")).removeprefix("torch."),
        # A template the harness renders itself is the same for every kind of model.
        "chat": template or ours.get("chat", "off"),
        "system_instruction": result.get("system_instruction_sha"),
        # Without a template it changes nothing.
        "multiturn": result.get("fewshot_as_multiturn") if template else None,
        **{name: config.get(name) for name in _SEEDS},
        "task_config": foreign_config_sha256(configured),
    }
    stated = {
        name: value for name, value in conditions.items() if value is not None and value is not False and value != {}
    }
    identity = (ours.get("identity") or {}).get("sha256")
    stated |= _typed(config, arguments) | ({IDENTITY: identity} if identity else {})
    return tuple((name, plain(value)) for name, value in stated.items())


def _options(configured: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """A task's metadata, without what the harness adds to it: the model's arguments, and where the task is."""
    apart = {"version", "config_source", "description", "declared", CHOICE, *arguments}
    return {name: value for name, value in (configured.get("metadata") or {}).items() if name not in apart}


def _typed(config: dict[str, Any], arguments: dict[str, Any]) -> dict[str, Any]:
    """The model arguments of a run that can change an answer and are not the defaults, paths by their last part."""
    parameters = (config.get("fairkv") or {}).get("parameters") or {}
    apart = {*NOT_ANSWERING, *_ELSEWHERE, *parameters}
    typed = {name: nameless(value) for name, value in arguments.items() if name not in apart and value is not None}
    return {name: value for name, value in typed.items() if value != DEFAULTS.get(name)}


def _metrics(entry: dict[str, Any], n: int) -> dict[str, Metric]:
    """``metric,filter`` entries as metrics; the filter is named only if it is not "none"."""
    metrics = {}
    for key, value in entry.items():
        name, comma, filtered = key.partition(",")
        if not comma or name.endswith("_stderr") or isinstance(value, (str, type(None))):
            continue
        stderr = entry.get(f"{name}_stderr,{filtered}")
        error = float(stderr) if isinstance(stderr, (int, float)) else None
        metrics[name if filtered == "none" else key] = Metric(float(value), error, n)
    return metrics


def _bytes(metrics: dict[str, Metric], ours: dict[str, Any], name: str) -> float | None:
    """Mean bytes per context: the task's own metric, or from the run's total."""
    if name in metrics:
        return metrics[name].value
    return ours[name] / ours["contexts"] if ours.get("contexts") and ours.get(name) is not None else None


def _achieved_ratio(
    metrics: dict[str, Metric], ours: dict[str, Any], full: float | None, kept: float | None
) -> float | None:
    """Of pairs: from the bytes of this task, or its keep rate if pairs are not held in full; without them that of the
    run; and 0 for a model that evicts nothing."""
    plain = ours.get("kv_bits", PLAIN_BITS) == PLAIN_BITS and not ours.get("key_channels")
    if full and kept is not None and plain:
        return 1 - kept / full
    if not plain and "keep_rate" in metrics:
        return 1 - metrics["keep_rate"].value
    return ours.get("achieved_ratio") if ours else 0.0


def _versions(result: dict[str, Any]) -> dict[str, str]:
    versions = {"lm-eval": result.get("lm_eval_version"), "transformers": result.get("transformers_version")}
    return {name: version for name, version in versions.items() if version}
