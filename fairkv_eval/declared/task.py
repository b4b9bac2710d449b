"""A task by YAML alone: ``class: !function fairkv_eval.declared.DeclaredTask``, see tasks/README.md.

Rows, messages, segments, context and metrics are keys of the YAML beside the harness's own, which mean what they mean
in any task. The harness hands a task's class the whole YAML and tells where it is, so paths are relative to it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api import registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.config.task import TaskConfig

from fairkv_eval import metrics
from fairkv_eval.declared.rows import read_rows
from fairkv_eval.declared.scorers import SCORERS, TELEMETRY, aggregation
from fairkv_eval.declared.templates import Templates
from fairkv_eval.errors import UsageError, naming, unknown
from fairkv_eval.prompts.chat import plain_text

OWN = ("data", "system", "user", "messages", "segments", "context", "secret", "metrics")
SPLIT = "test"
# Keys of the harness that would make the prompt or the documents, which are declared here.
REPLACED = (
    *("dataset_path", "dataset_name", "custom_dataset", "process_docs", "process_results"),
    *("doc_to_text", "description", "test_split", "validation_split", "training_split", "fewshot_split", "gen_prefix"),
)


class DeclaredTask(ConfigurableTask):
    """A harness task made of the keys OWN; UsageError or DataError, with the task's name, for what is wrong."""

    def __init__(self, config: dict[str, Any]) -> None:
        with naming(f"task {config.get('task')}"):
            _check_keys(config)
            own = {key: config[key] for key in OWN if key in config}
            rest = {key: value for key, value in config.items() if key not in (*OWN, "class")}
            self._docs = _documents(own, _folder(config))
            self._scorers, listed = _metrics(own.get("metrics"), rest.get("metric_list"))
            generates = rest.setdefault("output_type", "generate_until") == "generate_until"
            if self._scorers and not generates:
                raise UsageError(f"metrics: {', '.join(self._scorers)} score generated answers, not other output types")
            for name in self._scorers:
                for doc in self._docs:
                    SCORERS[name].check(name, doc)
            if generates:
                defaults = {"until": [], "do_sample": False, "temperature": 0.0}
                rest["generation_kwargs"] = defaults | (rest.get("generation_kwargs") or {})
                rest.setdefault("doc_to_target", "")
            else:
                rest.setdefault("target_delimiter", "")  # what is scored begins the answer's turn
            if "doc_to_target" not in rest:
                raise UsageError(f"output_type {rest['output_type']} needs doc_to_target")
            rest["metadata"] = {**(rest.get("metadata") or {}), "declared": own}
            if listed is not None:
                rest["metric_list"] = listed
        super().__init__(config={**rest, "test_split": SPLIT, "doc_to_text": "user", "num_fewshot": 0})
        names = {name: higher for scorer in self._scorers for name, higher in SCORERS[scorer].higher.items()}
        if generates:
            segments = {segment["name"] for doc in self._docs for segment in doc["segments"]}
            names |= dict.fromkeys([*TELEMETRY, *(f"keep_rate_{name}" for name in sorted(segments))])
        self._aggregation_list.update({name: aggregation(name) for name in names})
        self._higher_is_better.update(names)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Called by the harness where other tasks load their data set."""
        from datasets import Dataset

        self.dataset = {SPLIT: Dataset.from_list(self._docs)}

    def fewshot_context(
        self,
        doc: Mapping[str, Any],
        num_fewshot: int = 0,
        system_instruction: str | None = None,
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = False,
        chat_template: Callable[..., str] | None = None,
        gen_prefix: str | None = None,
    ) -> str:
        """The document's messages, rendered by the chat template, or as the harness writes them without one."""
        if num_fewshot:
            raise UsageError(f"task {self.task_name}: examples are declared in messages:, so num_fewshot stays 0")
        turns = [dict(m) for m in doc["messages"]]
        if system_instruction and turns[0]["role"] == "system":
            turns[0]["content"] = f"{system_instruction}\n\n{turns[0]['content']}"
        elif system_instruction:
            turns.insert(0, {"role": "system", "content": system_instruction})
        if apply_chat_template and chat_template:
            return chat_template(turns, add_generation_prompt=turns[-1]["role"] != "assistant")
        return plain_text(turns)

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """The harness's own metrics, those of `metrics:`, and what the eviction did to the context."""
        scores = dict(super().process_results(doc, results)) if self._metric_fn_list else {}
        for name in self._scorers:
            scores |= SCORERS[name].score(doc, str(results[0]))
        return scores | (metrics.telemetry(results[0]) if isinstance(results[0], str) else {})


def _check_keys(config: Mapping[str, Any]) -> None:
    allowed = set(TaskConfig.__dataclass_fields__) - set(REPLACED) | set(OWN) | {"class"}
    for key in config:
        if key in REPLACED:
            raise UsageError(f"{key} does not go with a declared task: its data and messages are declared")
        if key not in allowed:
            raise unknown("key", key, allowed)
    if "data" not in config:
        raise UsageError("a declared task needs data:")


def _folder(config: Mapping[str, Any]) -> Path:
    """The folder of the YAML, to which paths are relative; where a task has none, the working directory."""
    source = (config.get("metadata") or {}).get("config_source", "inline")
    return Path(".") if source == "inline" else Path(source).parent


def _documents(own: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    templates = Templates.of(own)
    docs = []
    for number, row in enumerate(read_rows(own["data"], folder), start=1):
        with naming(f"row {number}"):
            docs.append(templates.document(row))
    return docs


def _metrics(names: Any, listed: Any) -> tuple[list[str], list[dict[str, Any]] | None]:
    """Our scorers, and the harness's metric_list: what it held, and those of ``names`` that are the harness's own."""
    import lm_eval.api.metrics  # noqa: F401  fills the registry

    theirs = set(registry.metric_registry)
    names = [names] if isinstance(names, str) else list(names or [])
    entries = list(listed or [])
    for name in names:
        if name not in SCORERS and name not in theirs:
            raise unknown("metric", name, {*SCORERS, *theirs})
    for entry in entries:
        if entry.get("metric") not in theirs and not entry.get("hf_evaluate"):
            raise unknown("metric in metric_list", entry.get("metric"), theirs)
    entries += [{"metric": name} for name in names if name not in SCORERS]
    scorers = [name for name in names if name in SCORERS]
    return scorers, entries if entries or scorers else None
