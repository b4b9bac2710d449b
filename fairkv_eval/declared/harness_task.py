"""A task of the harness with other documents: ``class: !function fairkv_eval.declared.HarnessTask``.

The key ``harness`` names one of the harness's YAMLs, below its folder of tasks. All that the YAML says holds, as the
installed version says it: prompts, examples, filters, metrics. The keys of the task itself, among them a builder of
documents (`custom_dataset`), replace those of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from fairkv_eval.errors import UsageError, naming, unknown
from fairkv_eval.sentence_splitter import ensure_sentence_splitter

FOLDER = Path(lm_eval.tasks.__file__).parent
NOT_PASSED_ON = ("task", "tag", "dataset_path", "dataset_name")  # its names, and where its own documents are


class HarnessTask(ConfigurableTask):
    """The harness's task, under another name and with other documents.

    Its version is the harness's; the metadata in results also say which task of which release it is. UsageError if the
    harness has no such task, or lacks a package to load it.
    """

    KEYS = ("harness",)  # of its YAML, beside the harness's own

    def __init__(self, config: dict[str, Any]) -> None:
        with naming(f"task {config.get('task')}"):
            theirs = _harness_config(config.get("harness"))
            changed = {key: value for key, value in config.items() if key not in (*self.KEYS, "class")}
            metadata = {**(config.get("metadata") or {}), "version": theirs["metadata"]["version"]}
            kept = {key: value for key, value in theirs.items() if key not in NOT_PASSED_ON}
            super().__init__(config={**kept, **changed, "metadata": metadata})
        origin = {"task": theirs["task"], "lm_eval": version("lm-eval")}
        self.config.metadata = {**metadata, "harness": origin}  # what the documents' builder need not know

    def process_results(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, Any]:
        """The harness's scores of the metrics that the task lists: some tasks fill in others, as RULER for lengths."""
        scores = super().process_results(doc, results)
        return {metric: score for metric, score in scores.items() if metric in self.aggregation()}


def _harness_config(name: object) -> dict[str, Any]:
    """The harness's YAML of this name, includes and functions resolved."""
    if not (isinstance(name, str) and name.endswith(".yaml") and (FOLDER / name).is_file()):
        files = (file.relative_to(FOLDER).as_posix() for file in FOLDER.rglob("*.yaml"))
        raise unknown(f"harness (a YAML of lm-eval {version('lm-eval')})", name, files, listed_by=f"ls {FOLDER}")
    ensure_sentence_splitter()  # which RULER's module would download
    try:
        config: dict[str, Any] = load_yaml(FOLDER / name)
    except ImportError as error:
        raise UsageError(f"harness={name!r} cannot be loaded: {error}") from error
    return config
