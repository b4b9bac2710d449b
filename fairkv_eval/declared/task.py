"""A task by YAML alone: ``class: !function fairkv_eval.declared.DeclaredTask``, see tasks/README.md.

Rows, messages, segments, context and metrics are keys of the YAML. The harness's own keys keep their meaning. The
harness hands the whole YAML and its path to a task's class, so paths are relative to the YAML.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api import registry
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from fairkv_eval import metrics
from fairkv_eval.declared.json_lines import stored
from fairkv_eval.declared.keys import DECLARATIONS, check_keys
from fairkv_eval.declared.rows import read_rows
from fairkv_eval.declared.scorers import SCORERS, TELEMETRY, aggregation
from fairkv_eval.declared.targets import check_targets
from fairkv_eval.declared.templates import Templates
from fairkv_eval.errors import UsageError, naming, unknown
from fairkv_eval.headlines import KEY
from fairkv_eval.prompts.chat import plain_text
from fairkv_eval.strict_yaml import misread

SPLIT = "test"
GREEDY = {"until": [], "do_sample": False, "temperature": 0.0}


class DeclaredTask(ConfigurableTask):
    """A harness task made of a YAML's DECLARATIONS. Wrong ones raise UsageError or DataError with the task's name."""

    KEYS = DECLARATIONS  # of its YAML, beside the harness's own

    def __init__(self, config: dict[str, Any]) -> None:
        with naming(f"task {config.get('task')}"):
            check_keys(config)
            _check_files(config)
            declarations = {key: config[key] for key in DECLARATIONS if key in config}
            self._docs = _documents(declarations, _folder(config))
            self._scorers, metric_list = _metrics(declarations.get("metrics"), config.get("metric_list"))
            generates = config.get("output_type", "generate_until") == "generate_until"
            _check_scorers(self._scorers, self._docs, generates)
            harness_config = _harness_config(config, declarations, generates)
            if metric_list is not None:
                harness_config["metric_list"] = metric_list
            check_targets(harness_config, self._docs)
        super().__init__(config=harness_config)
        self._register(generates)

    def _register(self, generates: bool) -> None:
        """Add the metrics of the scorers, and of the eviction if answers are generated, to the harness's own.

        The metric_list, which results store, is then that of all; printed are those that the YAML asks for.
        """
        higher_is_better = {name: higher for scorer in self._scorers for name, higher in SCORERS[scorer].higher.items()}
        if generates:
            segments = {segment["name"] for doc in self._docs for segment in doc["segments"]}
            higher_is_better |= dict.fromkeys([*TELEMETRY, *(f"keep_rate_{name}" for name in sorted(segments))])
        asked_for = {*self._metric_fn_list, *(name for scorer in self._scorers for name in SCORERS[scorer].headline)}
        self._aggregation_list.update({name: aggregation(name) for name in higher_is_better})
        self._higher_is_better.update(higher_is_better)
        listed = {entry["metric"]: entry for entry in self.config.metric_list or ()}
        self.config.metric_list = [
            {
                "aggregation": function.__name__,
                **listed.get(name, {"metric": name}),
                "higher_is_better": self._higher_is_better[name],
                KEY: name in asked_for,
            }
            for name, function in self._aggregation_list.items()
        ]

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **_: Any) -> None:
        """Make the data set of the declared documents. The harness calls it instead of downloading one."""
        with naming(f"task {self.config.task}"):
            self.dataset = {SPLIT: stored(self._docs)}

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
        """The document's messages, rendered by the chat template; without one, as the harness writes them."""
        if num_fewshot:
            raise UsageError(f"task {self.task_name}: examples are declared in messages:, so num_fewshot stays 0")
        turns = [dict(message) for message in doc["messages"]]
        if system_instruction and turns[0]["role"] == "system":
            turns[0]["content"] = f"{system_instruction}\n\n{turns[0]['content']}"
        elif system_instruction:
            turns.insert(0, {"role": "system", "content": system_instruction})
        if apply_chat_template and chat_template:
            return chat_template(turns, add_generation_prompt=turns[-1]["role"] != "assistant")
        return plain_text(turns)

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """The harness's own metrics, those of `metrics:`, and the telemetry of the eviction."""
        scores = dict(super().process_results(doc, results)) if self._metric_fn_list else {}
        for name in self._scorers:
            scores |= SCORERS[name].score(doc, str(results[0]))
        return scores | (metrics.telemetry(results[0]) if isinstance(results[0], str) else {})


def _check_files(config: Mapping[str, Any]) -> None:
    """Raise UsageError for what the harness misread in the task's YAML, or in one that it includes."""
    source = (config.get("metadata") or {}).get("config_source", "inline")
    for path in () if source == "inline" else _included(Path(source)):
        for what in misread(path):
            raise UsageError(f"{path.name}, {what}")


def _included(path: Path) -> Iterator[Path]:
    yield path
    names = load_yaml(path, resolve_func=False, recursive=False).get("include") or []
    for name in [names] if isinstance(names, str) else names:
        yield from _included(path.parent / name)


def _folder(config: Mapping[str, Any]) -> Path:
    """The YAML's folder; the working directory for a task without a file."""
    source = (config.get("metadata") or {}).get("config_source", "inline")
    return Path(".") if source == "inline" else Path(source).parent


def _documents(declarations: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    templates = Templates.of(declarations)
    docs = []
    for number, row in enumerate(read_rows(declarations["data"], folder), start=1):
        with naming(f"row {number}"):
            docs.append(templates.document(row))
    return docs


def _metrics(names: Any, listed: Any) -> tuple[list[str], list[dict[str, Any]] | None]:
    """The scorers of this package among ``names``, and a metric_list: the listed entries, then the harness's metrics
    among ``names``. None keeps the harness's default."""
    import lm_eval.api.metrics  # noqa: F401  fills the registry

    of_harness = set(registry.metric_registry)
    names = [names] if isinstance(names, str) else list(names or [])
    entries = list(listed or [])
    for name in names:
        if name not in SCORERS and name not in of_harness:
            raise unknown("metric", name, {*SCORERS, *of_harness})
    for entry in entries:
        if entry.get("metric") not in of_harness and not entry.get("hf_evaluate"):
            raise unknown("metric in metric_list", entry.get("metric"), of_harness)
    entries += [{"metric": name} for name in names if name not in SCORERS]
    scorers = [name for name in names if name in SCORERS]
    return scorers, entries if entries or scorers else None


def _check_scorers(names: Sequence[str], docs: Iterable[Mapping[str, Any]], generates: bool) -> None:
    """Raise UsageError if there is no generated answer to score, or if a document lacks what a scorer reads."""
    if names and not generates:
        raise UsageError(f"metrics: {', '.join(names)} score generated answers, not other output types")
    for number, doc in enumerate(docs, start=1):
        for name in names:
            with naming(f"row {number}"):
                SCORERS[name].check(name, doc)


def _harness_config(config: Mapping[str, Any], declarations: Mapping[str, Any], generates: bool) -> dict[str, Any]:
    """The keys for the harness, with our defaults. The declarations go into the metadata, which results store."""
    harness = {key: value for key, value in config.items() if key not in (*DECLARATIONS, "class")}
    harness.setdefault("output_type", "generate_until")
    if generates:
        harness["generation_kwargs"] = GREEDY | (harness.get("generation_kwargs") or {})
        harness.setdefault("doc_to_target", "")
    else:
        harness.setdefault("target_delimiter", "")  # the scored text begins the answer's turn
    if "doc_to_target" not in harness:
        raise UsageError(f"output_type {harness['output_type']} needs doc_to_target")
    harness["metadata"] = {**(harness.get("metadata") or {}), "declared": declarations}
    return {**harness, "test_split": SPLIT, "doc_to_text": "user", "num_fewshot": 0}
