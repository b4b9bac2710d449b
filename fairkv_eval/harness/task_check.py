"""The check of tasks: load each, render its first prompts, score made-up answers, and report what is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError
from fairkv_eval.harness.response import LogLikelihoodResponse, Response
from fairkv_eval.harness.task_files import Finding, TaskFile
from fairkv_eval.harness.task_library import TaskLibrary, quiet
from fairkv_eval.metrics.instructions import check_instructions
from fairkv_eval.prompts.chat_document import MARK, ChatDocument, lacks_mark
from fairkv_eval.prompts.division import Text
from fairkv_eval.prompts.prompter import Prompter

_ANSWER = "I can't assist with that request."


@dataclass(eq=False)
class TaskReport:
    """What the check of a task saw: documents, first prompts with their segments, metrics, and findings.

    declared: metrics of its metric_list. returned: metrics that its process_results returned for made-up answers.
    """

    name: str
    documents: int = 0
    prompts: list[tuple[int, Text]] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)
    returned: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)

    def wrong(self, what: str) -> None:
        self.findings.append(Finding(self.name, what))


def check(library: TaskLibrary, prompter: Prompter, docs: int = 8) -> Iterator[TaskReport]:
    """Check each task of a library, groups by their members, and ``docs`` prompts of each.

    The last report has no name: its findings are about files, and about metrics that none of their tasks returns.
    """
    reports: dict[str, TaskReport] = {}
    for name in library.names:
        try:
            tasks = library.load(name)
            fresh = [member for member in tasks if member not in reports]
            again = library.load(name) if fresh else {}
        except Exception as error:  # whatever a data set, a template or a builder can raise
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            yield TaskReport(name, findings=[Finding(name, f"cannot be built: {_message(cause)}")])
            continue
        for member in fresh:
            with quiet():
                reports[member] = check_task(tasks[member], again[member], prompter, docs)
            yield reports[member]
    yield TaskReport("", findings=[*library.findings, *_never_returned(library, reports)])


def check_task(task: Any, again: Any, prompter: Prompter, docs: int = 8) -> TaskReport:
    """Check one task, built twice: documents, the first prompts, and the metrics of its process_results."""
    documents = task.eval_docs
    report = TaskReport(task.config.task, len(documents), declared=set(task.aggregation()))
    if not isinstance(task.config.metadata, Mapping) or "version" not in task.config.metadata:
        report.wrong("has no metadata.version")
    if difference := _first_difference(documents, again.eval_docs):
        report.wrong(f"two builds differ: {difference}")
    try:
        task.build_all_requests(limit=docs, rank=0, world_size=1)
    except Exception as error:  # templates are the task's own code
        report.wrong(f"cannot make its prompts: {_message(error)}")
        return report
    first_requests = {request.doc_id: request for request in reversed(task.instances)}
    for doc_id in sorted(first_requests):
        _check_prompt(first_requests[doc_id], prompter, report)
    if any(lacks_mark(doc) for doc in documents):
        what = f"documents have messages and segments, which are ignored without the field {MARK}"
        report.findings.append(Finding(report.name, what, wrong=False))
    _check_instructions(documents, report)
    if callable(task.config.process_results):
        _check_scores(task, documents, docs, report)
    return report


def _check_prompt(request: Any, prompter: Prompter, report: TaskReport) -> None:
    try:
        text = prompter.divide(request.args[0], request.doc)
    except UsageError as error:
        report.wrong(f"doc {request.doc_id}: {error}")
        return
    if not text.text.strip():
        report.wrong(f"doc {request.doc_id}: its prompt is empty")
    report.prompts.append((request.doc_id, text))


def _check_instructions(documents: Iterable[Any], report: TaskReport) -> None:
    """Check the instructions of every document, which fail only when an answer is scored."""
    for doc_id, doc in enumerate(documents):
        try:
            if isinstance(doc, Mapping) and doc.get("instruction_id_list") and "kwargs" in doc:
                check_instructions(doc)
        except (UsageError, KeyError) as error:
            report.wrong(f"doc {doc_id}: {_message(error)}")


def _check_scores(task: Any, documents: Iterable[Any], docs: int, report: TaskReport) -> None:
    """Score made-up answers: to the first documents, and to more until every declared metric was returned."""
    for doc_id, doc in enumerate(documents):
        if doc_id >= docs and report.declared <= report.returned:
            break
        try:
            metrics = set(task.process_results(doc, _made_up(task, doc)))
        except Exception as error:  # scoring is the task's own code
            report.wrong(f"doc {doc_id}: scoring an answer failed: {_message(error)}")
            return
        for metric in sorted(metrics - report.declared - report.returned):
            report.wrong(f"doc {doc_id}: process_results gives {metric!r}, which metric_list does not declare")
        report.returned |= metrics


def _made_up(task: Any, doc: Mapping[str, Any]) -> list[Any]:
    """Results as the harness passes them to process_results, with all telemetry of a compressed model."""
    keep_rates = {segment["name"]: 0.5 for segment in ChatDocument.of(doc).segments}
    telemetry = {"keep_rate": 0.5, "segments": keep_rates, "kv_bytes_full": 2, "kv_bytes_kept": 1}
    scored = {**telemetry, "continuation_tokens": 3, "choice_tokens": 2, "choice_logprob": -1.0}
    if task.OUTPUT_TYPE == "multiple_choice":
        return [LogLikelihoodResponse(-1.0 - i, i == 0, scored) for i in range(len(task.doc_to_choice(doc)))]
    if task.OUTPUT_TYPE == "loglikelihood":
        return [LogLikelihoodResponse(-1.0, False, scored)]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return [-1.0]
    return [Response(_ANSWER, {**telemetry, "response_entropy": 1.0})]


def _never_returned(library: TaskLibrary, reports: Mapping[str, TaskReport]) -> Iterator[Finding]:
    """Metrics that no document of a task gives; of a list that tasks share, those that none of the tasks gives."""
    sharers: dict[Path, list[TaskFile]] = {}
    for file in library.files:
        if file.metrics_from:
            sharers.setdefault(file.metrics_from, []).append(file)
    for files in sharers.values():
        scored = [reports[file.name] for file in files if file.name in reports and reports[file.name].returned]
        returned = set().union(*(report.returned for report in scored))
        names = ", ".join(report.name for report in scored)
        for metric in sorted(set().union(*(report.declared for report in scored)) - returned):
            what = f"metric_list declares {metric!r}, which no document gives"
            yield Finding(names, what, wrong=len(scored) == len(files))


def _first_difference(documents: Sequence[Any], again: Sequence[Any]) -> str:
    if len(documents) != len(again):
        return f"{len(documents)} documents, then {len(again)}"
    for doc_id, (a, b) in enumerate(zip(documents, again, strict=True)):
        if _digest(a) != _digest(b):
            keys = [key for key in a if _digest(a[key]) != _digest(b.get(key))] if isinstance(a, Mapping) else []
            return f"doc {doc_id}" + (f" in {', '.join(keys)}" if keys else "")
    return ""


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).digest()


def _message(error: Exception) -> str:
    """An error for people: those of Python's containers say too little on their own."""
    if isinstance(error, IndexError):
        return "its data set is empty, or a list in it is shorter than the task expects"
    if isinstance(error, KeyError):
        return f"a document has no field {error}"
    return str(error) or type(error).__name__
