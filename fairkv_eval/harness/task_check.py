"""Loads tasks, renders their first prompts and finds what is wrong with them."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.files import resource_dir
from fairkv_eval.harness.response import LogLikelihood, Response
from fairkv_eval.harness.task_files import Finding, TaskFile, read_folder
from fairkv_eval.prompts.division import Text
from fairkv_eval.prompts.prompter import Prompter

_ANSWER = "I can't assist with that request."


@dataclass(eq=False)
class Checked:
    """A task after its check: documents, first prompts with their segments, metrics declared and given."""

    name: str
    documents: int = 0
    prompts: list[tuple[int, Text]] = field(default_factory=list)
    declared: set[str] = field(default_factory=set)
    given: set[str] = field(default_factory=set)
    findings: list[Finding] = field(default_factory=list)


class Shelf:
    """Tasks that can be named: ours, those of the user's folders, and the harness's own where one of them is named.

    names: tasks and groups to look at; none are all tasks of the user's folders, or all of ours where there are no
    folders. metadata: as ``lm_eval --metadata``. UsageError for a folder or name that does not exist.
    """

    def __init__(
        self, names: Sequence[str] = (), include_path: Sequence[Path] = (), metadata: Mapping[str, Any] | None = None
    ) -> None:
        for folder in include_path:
            if not folder.is_dir():
                raise UsageError(f"--include_path {str(folder)!r} is no folder")
        ours = resource_dir("tasks")
        read = {folder: read_folder(folder) for folder in (ours, *include_path)}
        looked_at = [read[folder] for folder in (include_path or [ours])]
        self.files = [file for files, _ in read.values() for file in files]
        self.findings = [finding for _, findings in (read.values() if names else looked_at) for finding in findings]
        if names:
            self.findings = [finding for finding in self.findings if finding.where in names]
        own = {file.name for file in self.files}
        self.manager = _manager([*read], not set(names) <= own, dict(metadata or {}))
        for name in names:
            if name not in self.manager.task_index:
                unread = [str(finding) for _, findings in read.values() for finding in findings if finding.unreadable]
                hint = " ".join(["", "Files that cannot be read:", *unread]) if unread else ""
                raise UsageError(f"{unknown('task', name, own)}{hint}")
        self.groups = {file.name for file in self.files if file.is_group}
        chosen = names or [file.name for files, _ in looked_at for file in files]
        self.names = sorted(dict.fromkeys(chosen), key=lambda name: name in self.groups)

    def load(self, name: str) -> Mapping[str, Any]:
        """The task of this name, or all tasks of the group."""
        with _quiet():
            return self.manager.load([name])["tasks"]


def _manager(folders: Sequence[Path], include_defaults: bool, metadata: dict[str, Any]) -> Any:
    from lm_eval.tasks import TaskManager

    paths: list[str | Path] = [str(folder) for folder in folders]
    with _quiet():
        return TaskManager(include_path=paths, include_defaults=include_defaults, metadata=metadata)


def check(shelf: Shelf, prompter: Prompter, docs: int = 8) -> Iterator[Checked]:
    """Check each task of a shelf, groups by their members, ``docs`` prompts of each; then what only all of them tell.

    The last one has no name: its findings are about files, and about metrics that no task gives.
    """
    checked: dict[str, Checked] = {}
    for name in shelf.names:
        try:
            tasks = shelf.load(name)
            fresh = [member for member in tasks if member not in checked]
            again = shelf.load(name) if fresh else {}
        except Exception as error:  # whatever a data set, a template or a builder can raise
            yield Checked(name, findings=[Finding(name, f"cannot be built: {_told(error)}")])
            continue
        for member in fresh:
            with _quiet():
                checked[member] = check_task(tasks[member], again[member], prompter, docs)
            yield checked[member]
    yield Checked("", findings=[*shelf.findings, *_never_given(shelf, checked)])


def check_task(task: Any, again: Any, prompter: Prompter, docs: int = 8) -> Checked:
    """Check one task, built twice: documents, the first prompts, and the metrics of its process_results."""
    result = Checked(task.config.task, declared=set(task.aggregation()))
    name, documents = result.name, task.eval_docs
    result.documents = len(documents)

    def wrong(what: str) -> None:
        result.findings.append(Finding(name, what))

    if not isinstance(task.config.metadata, Mapping) or "version" not in task.config.metadata:
        wrong("has no metadata.version")
    if differs := _first_difference(documents, again.eval_docs):
        wrong(f"two builds differ: {differs}")
    try:
        task.build_all_requests(limit=docs, rank=0, world_size=1)
    except Exception as error:  # templates are the task's own code
        wrong(f"cannot make its prompts: {_told(error)}")
        return result
    seen: set[int] = set()
    for request in task.instances:
        if request.doc_id in seen:
            continue
        seen.add(request.doc_id)
        try:
            text = prompter.divide(request.args[0], request.doc)
        except UsageError as error:
            wrong(f"doc {request.doc_id}: {error}")
            continue
        if not text.text.strip():
            wrong(f"doc {request.doc_id}: its prompt is empty")
        result.prompts.append((request.doc_id, text))
    if callable(task.config.process_results):
        _score(task, documents, docs, result)
    return result


def _score(task: Any, documents: Iterable[Any], docs: int, result: Checked) -> None:
    """Score made-up answers: of the first documents, and of more while a declared metric has not been given."""
    for doc_id, doc in enumerate(documents):
        if doc_id >= docs and result.declared <= result.given:
            break
        try:
            given = set(task.process_results(doc, _made_up(task, doc)))
        except Exception as error:  # scoring is the task's own code
            result.findings.append(Finding(result.name, f"doc {doc_id}: scoring an answer failed: {_told(error)}"))
            return
        for metric in sorted(given - result.declared - result.given):
            what = f"doc {doc_id}: process_results gives {metric!r}, which metric_list does not declare"
            result.findings.append(Finding(result.name, what))
        result.given |= given


def _made_up(task: Any, doc: Mapping[str, Any]) -> list[Any]:
    """Results as the harness hands them to process_results, with everything a compressed model tells."""
    segments = {segment["name"]: 0.5 for segment in doc.get("segments") or ()}
    told = {"keep_rate": 0.5, "segments": segments, "kv_bytes_full": 2, "kv_bytes_kept": 1}
    scored = {**told, "continuation_tokens": 2}
    if task.OUTPUT_TYPE == "multiple_choice":
        return [LogLikelihood(-1.0 - i, i == 0, scored) for i in range(len(task.doc_to_choice(doc)))]
    if task.OUTPUT_TYPE == "loglikelihood":
        return [LogLikelihood(-1.0, False, scored)]
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return [-1.0]
    return [Response(_ANSWER, {**told, "response_entropy": 1.0})]


def _never_given(shelf: Shelf, checked: Mapping[str, Checked]) -> Iterator[Finding]:
    """Metrics that no document of a task gives; where tasks share a list, those that none of the tasks gives."""
    sources: dict[Path, list[TaskFile]] = {}
    for file in shelf.files:
        if file.metrics_from:
            sources.setdefault(file.metrics_from, []).append(file)
    for files in sources.values():
        done = [checked[file.name] for file in files if file.name in checked and checked[file.name].given]
        given = set().union(*(one.given for one in done))
        for metric in sorted(set().union(*(one.declared for one in done)) - given) if done else ():
            names = ", ".join(one.name for one in done)
            whole = len(done) == len(files)
            yield Finding(names, f"metric_list declares {metric!r}, which no document gives", whole)


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


def _told(error: Exception) -> str:
    """An error for people: those of Python's containers say too little by their words alone."""
    if isinstance(error, IndexError):
        return "its data set is empty, or a list in it is shorter than the task takes it for"
    if isinstance(error, KeyError):
        return f"a document has no field {error}"
    return str(error) or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's own progress bars and remarks out of a report."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)
