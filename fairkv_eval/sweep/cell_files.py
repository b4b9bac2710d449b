"""The files of a finished cell: the harness's own result JSON and samples, both or none."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from lm_eval.loggers.utils import add_env_info, add_tokenizer_info, get_git_commit_hash
from lm_eval.utils import sanitize_model_name

from fairkv_eval import provenance
from fairkv_eval.command_line import command_line
from fairkv_eval.errors import UsageError
from fairkv_eval.harness.explanations import name_results
from fairkv_eval.prompts.settings import PromptSettings
from fairkv_eval.sweep import manifest
from fairkv_eval.sweep.cell import Cell
from fairkv_eval.sweep.config import Sweep
from fairkv_eval.sweep.evaluation import Answers
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.loaded_model import LoadedModel
from fairkv_eval.sweep.loggers import log_to_wandb, swallowed_errors, tracker

_PROMPTS = tuple(field.name for field in fields(PromptSettings))


@dataclass(frozen=True)
class CellWriter:
    """Writes the cells of one task run.

    info: what the model reports after the run (`FairKV.get_model_info`), with the run's totals and speeds. began: when
    the run began, in seconds since the epoch. alone: the id of the cell, if the run answered one; a run of several
    prefills once for all of them, and decodes them together, so that no cell has a speed of its own.
    """

    sweep: Sweep
    folder: SweepFolder
    model: LoadedModel
    info: Mapping[str, Any]
    began: float
    alone: str | None = None

    def write(self, cell: Cell, results: dict[str, Any], answers: Answers, answers_cut: int) -> Path:
        """Write a cell's result JSON and samples, both or none; return their folder. W&B gets them too if it is
        configured. ``answers_cut``: how many answers have as many tokens as they may."""
        yaml = Path(str((results["configs"][cell.task].get("metadata") or {}).get("config_source") or ""))
        results["config"] = self._config(cell, answers, self.folder.config(cell), yaml)
        results["config"]["fairkv"]["answers_cut"] = answers_cut
        results |= {"git_hash": _git_hash(), "date": self.began, **_environment()}
        add_tokenizer_info(results, self.model.lm)
        for config in results["configs"].values():
            provenance.shorten_source(config.get("metadata") or {})
        samples = results.pop("samples")
        log_to_wandb(cell, results, samples, self.sweep)  # before the tracker changes the samples
        return self.folder.finish(cell, self._save(cell, results, samples))

    def _save(self, cell: Cell, results: dict[str, Any], samples: dict[str, Any]) -> Path:
        """Save the files with the harness's tracker, which pushes them to the Hub if that is configured; return their
        folder."""
        folder = self.folder.staging(cell)
        saving = tracker(folder, self.sweep)
        template = self.sweep.apply_chat_template
        saving.general_config_tracker.start_time = time.perf_counter() - (time.time() - self.began)
        saving.general_config_tracker.log_experiment_args(
            model_source="fairkv",
            model_args={**self.model.arguments, "pretrained": self.model.name},
            system_instruction=self.sweep.system_instruction,
            chat_template=self.model.lm.chat_template(template) if template else None,
            fewshot_as_multiturn=self.sweep.fewshot_as_multiturn,
        )
        name_results(saving.general_config_tracker, results)
        with swallowed_errors() as errors:
            saving.save_results_aggregated(results=results, samples=samples)
            saving.save_results_samples(task_name=cell.task, samples=samples[cell.task])
        files = folder / sanitize_model_name(self.model.name)
        try:
            manifest.complete(files, len(samples[cell.task]))
        except (OSError, UsageError) as error:
            # The tracker's own error came first, and so says more.
            raise UsageError(
                f"the results of cell {cell.name} of {cell.task} could not be written below {self.sweep.output_path}: "
                f"{errors[0] if errors else error}; the answers are in the journal, and the same command goes on from "
                "them"
            ) from error
        return files

    def _config(self, cell: Cell, answers: Answers, previous: Mapping[str, Any], yaml: Path) -> dict[str, Any]:
        """What the harness writes as ``config``, with the cell's policy and totals under ``fairkv``."""
        sweep = self.sweep
        arguments = dict(self.model.arguments)
        if "pretrained" in arguments:
            arguments["pretrained"] = self.model.name
        arguments |= cell.policy.arguments()
        return {
            "model": "fairkv",
            "model_args": arguments,
            **self.info,
            "fairkv": {
                **self._fairkv(cell, answers, previous),
                "command": command(cell, sweep, arguments, yaml),
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

    def _fairkv(self, cell: Cell, answers: Answers, previous: Mapping[str, Any]) -> dict[str, Any]:
        """``previous``: the config written by an earlier run, if this cell is only being completed (with fidelity). Its
        speeds and totals are kept, since the answers are that run's."""
        info = self.info["fairkv"]
        run = {name: value for name, value in info.items() if name.endswith("_tokens")}
        measured = previous or (info if cell.id == self.alone else {})
        speeds = {name: value for name, value in measured.items() if name.endswith("_per_second")}
        if previous:
            run = previous["sweep"]["run"]
        return {
            **{k: v for k, v in info.items() if k in (*_PROMPTS, "notes")},
            **cell.policy.describe(),
            **self.model.lm.statistics.describe(cell.policy),
            **cell_totals(answers),
            **speeds,
            **provenance.describe(),
            "model_sha256": info["model_sha256"],
            "identity": info["identity"],
            "sweep": {
                "cell": cell.id,
                "fidelity": any(answer.fidelity is not None for answer in answers.values()),
                "requests_sha256": cell.identity["requests"],
                # How many of the answers each commit computed; ``commit`` above is the one that scored them.
                "answers_by_commit": dict(Counter(answer.commit or "unknown" for answer in answers.values())),
                # One engine run computes all cells of a task, so that its totals are not any one cell's.
                "run": run,
            },
        }


def cell_totals(answers: Answers) -> dict[str, Any]:
    """Totals of one cell: what eviction did to its contexts, each counted once, and the tokens generated."""
    contexts = {answer.context: answer.telemetry for answer in answers.values() if answer.telemetry["kv_bytes_full"]}
    full, kept = (sum(entry[f"kv_bytes_{part}"] for entry in contexts.values()) for part in ("full", "kept"))
    pairs = sum(entry["keep_rate"] * entry["kv_bytes_full"] for entry in contexts.values())  # kept, if not packed
    return {
        "contexts": len(contexts),
        "context_tokens": sum(entry["context_tokens"] for entry in contexts.values()),
        "kv_bytes_full": full,
        "kv_bytes_kept": kept,
        "achieved_ratio": round(1 - pairs / full, 6) if full else None,
        "generated_tokens": sum(answer.telemetry.get("generated_tokens", 0) for answer in answers.values()),
    }


def command(cell: Cell, sweep: Sweep, arguments: Mapping[str, Any], yaml: Path) -> str:
    """The plain harness's command line for a cell, with these model arguments. ``yaml``: where its task is."""
    return command_line(
        "fairkv",
        arguments,
        cell.task,
        sweep.seed,
        num_fewshot=sweep.num_fewshot,
        limit=sweep.limit,
        batch_size=sweep.batch_size,
        gen_kwargs=sweep.gen_kwargs,
        metadata=sweep.metadata,
        include_path=_include_path(sweep, yaml),
        system_instruction=sweep.system_instruction,
        apply_chat_template=sweep.apply_chat_template,
        fewshot_as_multiturn="false" if sweep.apply_chat_template and not sweep.fewshot_as_multiturn else None,
    )


def _include_path(sweep: Sweep, yaml: Path) -> str | None:
    """The name of the folder, among those of the sweep, that holds a task's YAML: `lm_eval` takes one."""
    folders = [Path(path).resolve() for path in sweep.include_path]
    return next((folder.name for folder in folders if folder in yaml.resolve().parents), None)


@cache
def _git_hash() -> str | None:
    return get_git_commit_hash()


@cache
def _environment() -> dict[str, Any]:
    """The harness's description of the machine, which takes seconds and is the same for every cell."""
    environment: dict[str, Any] = {}
    add_env_info(environment)
    return environment
