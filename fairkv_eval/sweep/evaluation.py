"""A cell's answers, evaluated by the harness's own `evaluate`: metrics, standard errors and samples are its own."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate

from fairkv_eval.engine.fidelity import METRICS
from fairkv_eval.harness.explanations import explain
from fairkv_eval.harness.response import LogLikelihoodResponse, Response
from fairkv_eval.model import FairKV
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.journal import Answer, Slot
from fairkv_eval.sweep.tasks import TemplateModel

Answers = Mapping[Slot, Answer]


def evaluate_cell(
    task: Task, requests: Sequence[Instance], answers: Answers, sweep: Sweep, model: FairKV
) -> dict[str, Any]:
    """The harness's results of one cell, samples included, and fidelity if the answers have it.

    ``model``: the one whose chat template made the requests; it runs nothing.
    """
    fresh = [replace(request, resps=[], filtered_resps={}) for request in requests]
    replay = ReplayModel(model, fresh, {slot: _response(answer) for slot, answer in answers.items()})
    with _built(task, fresh):
        results = evaluate(
            lm=replay,
            task_dict={"tasks": {task.task_name: task}, "groups": {}},
            limit=sweep.limit,
            bootstrap_iters=sweep.bootstrap_iters,
            log_samples=True,
            system_instruction=sweep.system_instruction,
            apply_chat_template=sweep.apply_chat_template,
            fewshot_as_multiturn=sweep.fewshot_as_multiturn,
            confirm_run_unsafe_code=sweep.confirm_run_unsafe_code,
        )
    results = dict(results)
    explain(results, replay)
    fidelities: dict[Any, list[dict[str, float]]] = {}
    for slot, answer in answers.items():
        if answer.fidelity is not None:
            fidelities.setdefault(requests[slot.request].doc_id, []).append(answer.fidelity)
    if fidelities:
        _add_fidelity(results, fidelities)
    return results


def _add_fidelity(results: dict[str, Any], fidelities: Mapping[Any, Sequence[Mapping[str, float]]]) -> None:
    """Add ``fidelities`` (by document) to the samples, and their means and standard errors to the results, computed
    as the harness does."""
    for task, samples in results["samples"].items():
        columns: dict[str, list[float]] = {}
        for sample in samples:
            for name in METRICS:
                sample[name] = mean([fidelity[name] for fidelity in fidelities[sample["doc_id"]]])
                columns.setdefault(f"{name},{sample['filter']}", []).append(sample[name])
            sample["metrics"] = [*sample["metrics"], *METRICS]
        for key, column in columns.items():
            name, _, filter_name = key.partition(",")
            error = mean_stderr(column) if len(column) > 1 else "N/A"
            results["results"][task] |= {key: mean(column), f"{name}_stderr,{filter_name}": error}
        results["higher_is_better"][task] |= METRICS


class ReplayModel(TemplateModel):
    """Replays the responses of a cell to ``requests``."""

    def __init__(
        self,
        like: FairKV,
        requests: Sequence[Instance],
        responses: Mapping[Slot, Response | LogLikelihoodResponse],
    ) -> None:
        super().__init__(like)
        self.prompter = like.prompter  # for `explain`
        self._index = {id(request): index for index, request in enumerate(requests)}
        self._responses = responses

    def generate_until(self, requests: list[Instance]) -> list[str]:
        return self._replay(requests)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        return self._replay(requests)

    def _replay(self, requests: list[Instance]) -> list[Any]:
        """The harness repeats a request by listing it several times."""
        repeats: Counter[int] = Counter()
        responses = []
        for request in requests:
            index = self._index[id(request)]
            responses.append(self._responses[Slot(index, repeats[index])])
            repeats[index] += 1
        return responses


def _response(answer: Answer) -> Response | LogLikelihoodResponse:
    if answer.text is None:
        return LogLikelihoodResponse(answer.logprob, answer.greedy, answer.telemetry)
    return Response(answer.text, answer.telemetry)


@contextmanager
def _built(task: Any, requests: list[Instance]) -> Iterator[None]:
    """Give a task its requests: the harness would build the same ones again for every cell."""
    task._instances = requests
    task.build_all_requests = lambda **_: None
    try:
        yield
    finally:
        del task.build_all_requests


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Show each harness warning once; it would repeat them for every cell."""
    messages: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        new = message not in messages
        messages.add(message)
        return new

    logger = logging.getLogger("lm_eval.evaluator_utils")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
