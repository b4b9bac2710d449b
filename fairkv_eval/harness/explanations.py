"""What explains a result beside its numbers: the prompt of each sample as the model had it, the chat template that was
applied, the model's name, and a place for each metric in each sample.

The harness writes the text that it handed to the model. A document may render itself as a chat, so that the model's
prompt is another text; and only the model knows its context and segments.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any

from lm_eval.utils import hash_string, sanitize_model_name, simple_parse_args_string

from fairkv_eval.pretrained import HUB_NAME
from fairkv_eval.prompts.tokens import truncate

if TYPE_CHECKING:
    from lm_eval.loggers.evaluation_tracker import GeneralConfigTracker

    from fairkv_eval.prompts.prompter import Prompter

DOCUMENT = "document"  # under `chat_template_by`: the documents asked for the template, and not the harness
_NUMBER = re.compile(r"\d+(\.\d+)?")
_NAMES = ("pretrained", "peft", "delta")  # model arguments that the harness names a folder after


def once(extend: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Callable[..., Any]:
    """Make an extension of a function of the harness safe to apply to what it returned."""

    @wraps(extend)
    def extended(plain: Any) -> Any:
        if getattr(plain, "extended_by", None) == extend.__name__:
            return plain
        result: Any = wraps(plain)(extend(plain))
        result.extended_by = extend.__name__
        return result

    return extended


@once
def explaining(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """The harness's `evaluate`, whose results are explained."""

    def explained(*args: Any, **kwargs: Any) -> Any:
        results = evaluate(*args, **kwargs)
        if results:
            explain(results, kwargs["lm"] if "lm" in kwargs else args[0])
        return results

    return explained


@once
def naming(save: Callable[..., Any]) -> Callable[..., Any]:
    """The tracker's `save_results_aggregated`, for files that name their model and template."""

    def named(tracker: Any, results: dict[str, Any], samples: dict[str, Any] | None = None) -> Any:
        name_results(tracker.general_config_tracker, results)
        return save(tracker, results, samples)

    return named


@once
def knowing_groups(begin: Callable[..., Any]) -> Callable[..., Any]:
    """`post_init` of the W&B logger, which takes a group without metrics of its own for a task without samples."""

    def began(logger: Any, results: Mapping[str, Any]) -> None:
        begin(logger, results)
        logger.group_names = [name for name in results["results"] if name not in results["configs"]]

    return began


def explain(results: dict[str, Any], lm: Any) -> None:
    """Add prompts and missing metrics to the samples, and the chat template to the results if it was applied.

    ``lm``: any model of the harness; only ours knows its prompts.
    """
    samples = results.get("samples") or {}
    _suit_loggers(results, samples)
    prompter = getattr(lm, "prompter", None)
    if prompter is None:
        return
    records = _records_of(prompter)
    for task, of_task in samples.items():
        for sample in of_task:
            sample.setdefault("prompts", records.of(sample, task))
    applied = any(map(_is_chat, samples.values())) if samples else prompter.applied_template
    if applied:
        results["chat_template"] = lm.chat_template(True)


def _suit_loggers(results: dict[str, Any], samples: Mapping[str, Any]) -> None:
    """Fill in what the harness's loggers for W&B and Zeno stop at.

    They read each metric of a task from each sample, so that one which a document does not have becomes None. A column
    of a table has one type, and the harness turns the versions of groups, not those of tasks, into texts.
    """
    for task, of_task in samples.items():
        listed = (results["configs"].get(task) or {}).get("metric_list") or ()
        for sample in of_task:
            for entry in listed:
                sample.setdefault(entry["metric"], None)
    versions = results.get("versions") or {}
    for name, version in versions.items():
        if isinstance(version, str) and _NUMBER.fullmatch(version):
            versions[name] = float(version) if "." in version else int(version)


def name_results(config: GeneralConfigTracker, results: Mapping[str, Any]) -> None:
    """Complete what the harness writes of a run of ours: the default model's name, and an applied chat template."""
    ours = results.get("config", {}).get("fairkv")
    if ours is None:
        return
    arguments = results["config"].get("model_args") or {}
    arguments = simple_parse_args_string(arguments) if isinstance(arguments, str) else arguments
    if not any(arguments.get(name) for name in _NAMES):
        config.model_name, config.model_name_sanitized = HUB_NAME, sanitize_model_name(HUB_NAME)
    template = results.get("chat_template")
    if template and config.chat_template is None:
        config.chat_template, config.chat_template_sha = template, hash_string(template)
        ours["chat_template_by"] = DOCUMENT


def _is_chat(samples: Iterable[Mapping[str, Any]]) -> bool:
    return any(prompt["chat"] == "on" for sample in samples for prompt in sample["prompts"])


class PromptRecords:
    """What samples say of their prompts. Each prompt is rendered once more, however many cells of a sweep have it."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = copy.copy(prompter)
        self._prompter.note = lambda text: None  # the run has counted its notes
        self._records: dict[Any, dict[str, Any]] = {}

    def of(self, sample: Mapping[str, Any], task: str) -> list[dict[str, Any]]:
        """The different prompts of a sample's requests, in their order. Rolling windows and empty texts have none."""
        by_text: dict[str, dict[str, Any]] = {}
        for arguments, responses in zip(sample["arguments"], sample["resps"], strict=True):
            telemetry = getattr(responses[0], "telemetry", None) if responses else None
            if telemetry and arguments[0]:
                record = self._record(arguments, sample, task, telemetry["truncated_tokens"])
                by_text.setdefault(record["text"], record)
        return [*by_text.values()]

    def _record(self, arguments: Sequence[Any], sample: Mapping[str, Any], task: str, cut: int) -> dict[str, Any]:
        text, scored = arguments[0], isinstance(arguments[1], str)
        key = (task, sample["doc_hash"], type(text), text, scored, cut)
        if key not in self._records:
            self._records[key] = self._made(text, sample["doc"], task, scored, cut)
        return self._records[key]

    def _made(self, words: str, doc: Any, task: str, scored: bool, cut: int) -> dict[str, Any]:
        text = self._prompter.divide(words, doc, task)
        if scored:  # white space at the end of a context belongs to the continuation
            text = replace(text, text=text.text.rstrip())
        prompt = self._prompter.prompt(text, beginning=self._prompter.prefix if scored else None)
        prompt = truncate(prompt, len(prompt.tokens) - cut)
        return {
            "text": text.text,
            "sha256": hashlib.sha256(text.text.encode(errors="surrogatepass")).hexdigest(),
            "template_sha256": self._prompter.template_sha256 if text.resolved.chat == "on" else None,
            **text.resolved._asdict(),
            "tokens": len(prompt.tokens),
            "context_tokens": prompt.context_length,
            "truncated_tokens": cut,
            "ranges": [segment._asdict() for segment in prompt.segments],
        }


@lru_cache(maxsize=2)
def _records_of(prompter: Prompter) -> PromptRecords:
    return PromptRecords(prompter)
