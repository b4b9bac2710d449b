"""The request to view: a document of a task, or one of a finished run under that run's model arguments."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.files import open_text
from fairkv_eval.harness.task_library import TaskLibrary

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

    from fairkv_eval.model import FairKV


@dataclass(frozen=True)
class Source:
    """A task, how its prompts are made, and the model's arguments. samples: a finished run's samples file."""

    task: str
    model_args: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    num_fewshot: int | None = None
    chat: bool = False
    multiturn: bool = False
    system_instruction: str | None = None
    samples: Path | None = None
    fewshot_seed: int = 1234  # the harness's default


def of_run(path: Path, task: str | None = None) -> Source:
    """The source of a finished run, from its results_*.json or one of the samples_*.jsonl beside it."""
    results = path
    if ".jsonl" in path.suffixes:
        stem, _, date = path.name.removeprefix("samples_").partition(".jsonl")[0].rpartition("_")
        task = task or stem
        results = path.with_name(f"results_{date}.json")
        if not results.is_file():
            raise UsageError(f"{path.name}: its run's {results.name} is not beside it, so its policy is not known")
    with _as_the_harness_writes(results):
        return _source(results, _read(results), task)


def _source(results: Path, result: dict[str, Any], task: str | None) -> Source:
    config = result.get("config")
    if not isinstance(config, dict) or "configs" not in result:
        raise UsageError(f"{results.name} is not the result of a run: it has no config and configs")
    if config.get("model") != "fairkv":
        raise UsageError(f"{results.name}: model {config.get('model')!r} evicts nothing; a view needs a run of fairkv")
    if result.get("system_instruction_sha") and result.get("system_instruction") is None:
        raise UsageError(
            f"{results.name} is published without its --system_instruction; a view needs the run's own file"
        )
    names = sorted(result["configs"])
    if task is None and len(names) > 1:
        raise UsageError(f"{results.name} is a run of {', '.join(names)}: name one with --tasks")
    task = task or names[0]
    if task not in names:
        raise unknown(f"task of {results.name}", task, names)
    samples = results.with_name(results.name.replace("results_", f"samples_{task}_")).with_suffix(".jsonl")
    if not samples.is_file():
        samples = samples.with_suffix(".jsonl.gz")
    metadata = result["configs"][task].get("metadata") or {}
    return Source(
        task,
        config["model_args"] if isinstance(config["model_args"], dict) else read_arguments(config["model_args"] or ""),
        {k: v for k, v in metadata.items() if k not in ("version", "config_source")},
        result.get("n-shot", {}).get(task),
        bool(result.get("chat_template")) and not (config.get("fairkv") or {}).get("chat_template_by"),
        bool(result.get("fewshot_as_multiturn")),
        result.get("system_instruction"),
        samples if samples.is_file() else None,
        int(config.get("fewshot_seed") or 1234),
    )


def read_arguments(text: str) -> dict[str, Any]:
    """Read model arguments as `lm_eval` does: name=value,… or JSON."""
    from lm_eval._cli.utils import key_val_to_dict, try_parse_json

    try:
        parsed = try_parse_json(text)
        return dict(parsed) if isinstance(parsed, dict) else key_val_to_dict(text)
    except ValueError as error:
        raise UsageError(f"--model_args {text!r} cannot be read: {error}") from error


def request_of(
    source: Source, doc_id: int, lm: FairKV, include_path: Sequence[Path] = ()
) -> tuple[Instance, str | None]:
    """A document's request (the first, if it makes several), and the answer of a finished run or None.

    A finished run's prompt comes from its samples file. A chat is rendered anew, because its text alone does not show
    its turns. Raises UsageError if the rendered text is not the one in the file.
    """
    if source.samples is None:
        return _built(source, doc_id, lm, include_path), None
    with _as_the_harness_writes(source.samples):
        sample = _sample(source.samples, doc_id)
        doc = dict(sample["doc"])
        answer = next((a for answers in sample["resps"] for a in answers if isinstance(a, str)), None)
        arguments = tuple(next(iter(sample["arguments"].values())).values())
        if not (arguments and all(isinstance(text, str) for text in arguments[:1])):
            raise UsageError(f"{source.samples.name}, doc {doc_id}: its prompt is not text")
    if not source.chat:
        return _instance(source.task, doc_id, doc, arguments), answer
    request = _built(source, doc_id, lm, include_path)
    if request.args[0] != arguments[0]:
        raise UsageError(f"task {source.task}, doc {doc_id}: its prompt is no longer the one of {source.samples.name}")
    return request, answer


def _instance(task: str, doc_id: int, doc: dict[str, Any], arguments: tuple[Any, ...]) -> Instance:
    from lm_eval.api.instance import Instance

    kind = "generate_until" if len(arguments) > 1 and isinstance(arguments[1], dict) else "loglikelihood"
    return Instance(
        kind if len(arguments) > 1 else "loglikelihood_rolling", doc, arguments, 0, metadata=(task, doc_id, 1)
    )


def _built(source: Source, doc_id: int, lm: FairKV, include_path: Sequence[Path]) -> Instance:
    """Let the task build the request, and those before it: few-shot examples are drawn one after another."""
    task = TaskLibrary([source.task], include_path, source.metadata).load(source.task).get(source.task)
    if task is None:
        raise UsageError(f"{source.task!r} is a group; name one of its tasks")
    count = len(task.eval_docs)
    if not 0 <= doc_id < count:
        raise UsageError(f"--doc {doc_id} is not in {source.task}, whose documents are 0 to {count - 1}")
    if source.num_fewshot is not None:
        task.set_config(key="num_fewshot", value=source.num_fewshot)
    task.set_fewshot_seed(seed=source.fewshot_seed)
    task.build_all_requests(
        limit=doc_id + 1,
        rank=0,
        world_size=1,
        system_instruction=source.system_instruction,
        apply_chat_template=source.chat,
        fewshot_as_multiturn=source.multiturn,
        chat_template=lm.apply_chat_template if source.chat else None,
        tokenizer_name=lm.tokenizer_name if source.chat else "",
    )
    return next(request for request in task.instances if request.doc_id == doc_id)


@contextmanager
def _as_the_harness_writes(path: Path) -> Iterator[None]:
    """Raise UsageError, with the file's name, for whatever is wrong with what a file holds."""
    try:
        yield
    except UsageError:
        raise
    # A file that someone else wrote may be wrong in more ways than can be listed.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UsageError(f"{path.name} is not as the harness writes it ({reason})") from error


def _sample(path: Path, doc_id: int) -> dict[str, Any]:
    ids = []
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            try:
                sample = json.loads(line)
                if "doc" not in sample:
                    raise UsageError(f"{path.name} is published without documents; this needs the run's own samples")
                if sample["doc_id"] == doc_id:
                    return sample
                ids.append(sample["doc_id"])
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise UsageError(f"{path.name}, line {number}: not a sample of the harness ({error})") from error
    raise UsageError(f"--doc {doc_id} is not in {path.name}, whose documents are {min(ids)} to {max(ids)}")


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(result, dict):
        raise UsageError(f"{path.name} is not the result of a run")
    return result
