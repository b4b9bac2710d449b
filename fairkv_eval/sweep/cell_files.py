"""A finished cell: its answers scored by the harness's own `evaluate`, and written in the harness's own files."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean, mean_stderr
from lm_eval.api.task import Task
from lm_eval.evaluator import evaluate
from lm_eval.loggers.utils import add_env_info, add_tokenizer_info, get_git_commit_hash
from lm_eval.utils import sanitize_model_name

from fairkv_eval import provenance
from fairkv_eval.command_line import command_line
from fairkv_eval.engine.fidelity import METRICS
from fairkv_eval.errors import UsageError
from fairkv_eval.harness.response import LogLikelihood, Response
from fairkv_eval.pretrained import HUB_NAME
from fairkv_eval.sweep.cell import Cell
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.journal import Answer
from fairkv_eval.sweep.loggers import log_to_wandb, tracker
from fairkv_eval.sweep.stand_ins import Knowing

Answers = Mapping[tuple[int, int], Answer]  # by the request's place and how often it was asked before


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a cell's answers come from: the loaded model, its arguments in the sweep, what it tells about itself
    (`FairKV.get_model_info`, with totals and speeds of the run), and when that began (seconds since the epoch)."""

    model: Any
    arguments: Mapping[str, Any]
    info: Mapping[str, Any]
    began: float

    @property
    def name(self) -> str:
        """The model's name without a machine's paths."""
        return provenance.model_name(self.arguments.get("pretrained") or HUB_NAME)


def cell_folder(output: Path, model: str, cell: Cell) -> Path:
    """Where a cell's files lie; the folder is there once they are complete."""
    return output / sanitize_model_name(model) / cell.task / cell.name


def score(task: Task, requests: Sequence[Instance], answers: Answers, sweep: Sweep, source: Source) -> dict[str, Any]:
    """The harness's results of one cell, samples included."""
    known = {key: _as_told(answer) for key, answer in answers.items()}
    fresh = [dataclasses.replace(request, resps=[], filtered_resps={}) for request in requests]
    with _built(task, fresh):
        results = evaluate(
            lm=Knowing(source.model, fresh, known),
            task_dict={"tasks": {task.task_name: task}, "groups": {}},
            limit=sweep.limit,
            bootstrap_iters=sweep.bootstrap_iters,
            log_samples=True,
            system_instruction=sweep.system_instruction,
            apply_chat_template=sweep.apply_chat_template,
            fewshot_as_multiturn=sweep.fewshot_as_multiturn,
            confirm_run_unsafe_code=sweep.confirm_run_unsafe_code,
        )
    return dict(results)


def add_fidelity(results: dict[str, Any], requests: Sequence[Instance], answers: Answers) -> None:
    """Put what was found about each document into its samples, and the means with the harness's own standard errors
    into the results; nothing where nothing was found."""
    found: dict[Any, list[dict[str, float]]] = {}
    for (place, _), answer in answers.items():
        if answer.fidelity is not None:
            found.setdefault(requests[place].doc_id, []).append(answer.fidelity)
    if not found:
        return
    for task, samples in results["samples"].items():
        values: dict[str, list[float]] = {}
        for sample in samples:
            own = found[sample["doc_id"]]
            for name in METRICS:
                sample[name] = mean([one[name] for one in own])
                values.setdefault(f"{name},{sample['filter']}", []).append(sample[name])
            sample["metrics"] = [*sample["metrics"], *METRICS]
        for key, column in values.items():
            name, _, kind = key.partition(",")
            results["results"][task][key] = mean(column)
            error = mean_stderr(column) if len(column) > 1 else "N/A"
            results["results"][task][f"{name}_stderr,{kind}"] = error
        results["higher_is_better"][task] |= METRICS


def write(output: Path, cell: Cell, results: dict[str, Any], answers: Answers, sweep: Sweep, source: Source) -> Path:
    """Write a cell's result JSON and samples, both or none; the folder they are in."""
    arguments = {**source.arguments, "pretrained": source.name}
    folder = cell_folder(output, source.name, cell)
    results["config"] = _config(cell, answers, sweep, source, _before(folder))
    results |= {"git_hash": _git_hash(), "date": source.began, **_environment()}
    add_tokenizer_info(results, source.model)
    for config in results["configs"].values():
        provenance.shorten_source(config.get("metadata") or {})
    samples = results.pop("samples")
    log_to_wandb(cell, results, samples, sweep)  # before the tracker gives the samples another form
    unfinished = output / ".sweep" / "unfinished" / cell.id
    shutil.rmtree(unfinished, ignore_errors=True)
    saving = tracker(unfinished, sweep)
    saving.general_config_tracker.start_time = time.perf_counter() - (time.time() - source.began)
    saving.general_config_tracker.log_experiment_args(
        model_source="fairkv",
        model_args=arguments,
        system_instruction=sweep.system_instruction,
        chat_template=source.model.chat_template(sweep.apply_chat_template) if sweep.apply_chat_template else None,
        fewshot_as_multiturn=sweep.fewshot_as_multiturn,
    )
    saving.save_results_aggregated(results=results, samples=samples)
    saving.save_results_samples(task_name=cell.task, samples=samples[cell.task])
    # The tracker only logs what goes wrong.
    written = [*unfinished.glob("*/results_*.json"), *unfinished.glob(f"*/samples_{cell.task}_*.jsonl")]
    if len(written) != 2:
        raise UsageError(f"the results of cell {cell.name} could not be written below {output}; is the disk full?")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists():  # a cell that is scored again, with what it lacked
        folder.rename(unfinished / "before")
    written[0].parent.rename(folder)
    shutil.rmtree(unfinished)
    return folder


def finished(folder: Path, fidelity: bool) -> bool:
    """Whether a cell's files are there, with its fidelity where that is asked for."""
    if not fidelity:
        return any(folder.glob("results_*.json"))
    told = _before(folder)
    return bool(told and told["sweep"].get("fidelity"))


def account(answers: Answers) -> dict[str, Any]:
    """Totals of one cell: what eviction did to its contexts, each counted once, and what was generated."""
    contexts = {answer.context: answer.telemetry for answer in answers.values() if answer.telemetry["kv_bytes_full"]}
    full, kept = (sum(told[f"kv_bytes_{part}"] for told in contexts.values()) for part in ("full", "kept"))
    return {
        "contexts": len(contexts),
        "context_tokens": sum(told["context_tokens"] for told in contexts.values()),
        "kv_bytes_full": full,
        "kv_bytes_kept": kept,
        "achieved_ratio": round(1 - kept / full, 6) if full else None,
        "generated_tokens": sum(answer.telemetry.get("generated_tokens", 0) for answer in answers.values()),
    }


def command(cell: Cell, sweep: Sweep, arguments: Mapping[str, Any]) -> str:
    """The plain harness's command line for the same cell."""
    return command_line(
        "fairkv",
        {**arguments, **cell.policy.arguments()},
        cell.task,
        sweep.seed,
        num_fewshot=sweep.num_fewshot,
        limit=sweep.limit,
        batch_size=sweep.batch_size,
        gen_kwargs=sweep.gen_kwargs,
        metadata=sweep.metadata,
        include_path=" ".join(Path(path).name for path in sweep.include_path) or None,
        system_instruction=sweep.system_instruction,
        apply_chat_template=sweep.apply_chat_template,
    )


def _before(folder: Path) -> dict[str, Any]:
    """What a cell's own part of ``config`` was when it was written before; {} where it was not."""
    found = sorted(folder.glob("results_*.json"))
    return dict(json.loads(found[-1].read_text(encoding="utf-8"))["config"]["fairkv"]) if found else {}


def _config(cell: Cell, answers: Answers, sweep: Sweep, source: Source, before: Mapping[str, Any]) -> dict[str, Any]:
    """What the harness writes as ``config``, with the cell's own policy and totals under ``fairkv``.

    ``before``: of a cell that is scored again with what it lacked. Its answers come from that earlier run, and so do
    the speeds and totals of what was run.
    """
    arguments = {**source.arguments}
    if "pretrained" in arguments:
        arguments["pretrained"] = source.name
    shared = dict(source.info["fairkv"])
    run = {name: value for name, value in shared.items() if name.endswith("_tokens")}
    speeds = {name: value for name, value in shared.items() if name.endswith("_per_second")}
    if before:
        run, speeds = before["sweep"]["run"], {name: before.get(name) for name in speeds}
    return {
        "model": "fairkv",
        "model_args": {**arguments, **cell.policy.arguments()},
        **source.info,
        "fairkv": {
            **{k: v for k, v in shared.items() if k in ("segments", "scope", "chat", "fewshot_delimiter", "notes")},
            **cell.policy.describe(),
            **account(answers),
            **speeds,
            **provenance.describe(),
            "model_sha256": shared["model_sha256"],
            "command": command(cell, sweep, arguments),
            "sweep": {
                "cell": cell.id,
                "fidelity": any(answer.fidelity is not None for answer in answers.values()),
                "requests_sha256": cell.identity["requests"],
                # One engine run for all cells of a task: its speeds are theirs together.
                "run": run,
            },
        },
        "batch_size": sweep.batch_size,
        "batch_sizes": [],
        "device": sweep.device,
        "use_cache": None,
        "limit": sweep.limit,
        "bootstrap_iters": sweep.bootstrap_iters,
        "gen_kwargs": sweep.gen_kwargs,
        **dict(zip(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), sweep.seed, strict=True)),
    }


def _as_told(answer: Answer) -> Response | LogLikelihood:
    if answer.text is None:
        return LogLikelihood(answer.logprob, answer.greedy, answer.telemetry)
    return Response(answer.text, answer.telemetry)


@contextmanager
def _built(task: Any, requests: list[Instance]) -> Iterator[None]:
    """A task whose requests are built already: the harness would build the same ones again for every cell."""
    task._instances = requests
    task.build_all_requests = lambda **_: None
    try:
        yield
    finally:
        del task.build_all_requests


@cache
def _git_hash() -> str | None:
    return get_git_commit_hash()


@cache
def _environment() -> dict[str, Any]:
    """Seconds of work, and the same for every cell."""
    found: dict[str, Any] = {}
    add_env_info(found)
    return found
