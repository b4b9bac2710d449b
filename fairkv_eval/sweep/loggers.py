"""A sweep's cells on W&B and on the Hub: the harness's own loggers, with the arguments that it takes."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lm_eval.loggers import EvaluationTracker, WandbLogger

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.sweep.cell import Cell
from fairkv_eval.sweep.config import Sweep

log = logging.getLogger(__name__)

_OURS = {"self", "output_path", "token"}


def check_loggers(sweep: Sweep) -> None:
    """UsageError for what cannot be logged to, before anything is loaded."""
    if sweep.wandb_args is not None and find_spec("wandb") is None:
        raise UsageError("wandb_args needs W&B: pip install wandb")
    if sweep.wandb_config_args is not None and sweep.wandb_args is None:
        raise UsageError("wandb_config_args is given and wandb_args is not: W&B is asked for by wandb_args")
    allowed = set(inspect.signature(EvaluationTracker.__init__).parameters) - _OURS
    for name in sweep.hf_hub_log_args or ():
        if name not in allowed:
            raise unknown("argument of hf_hub_log_args", name, allowed)
    try:
        tracker(None, sweep)
    except ValueError as error:  # no token
        raise UsageError(f"hf_hub_log_args: {error}") from error


def tracker(output: Path | None, sweep: Sweep) -> EvaluationTracker:
    """What writes a cell's files, and pushes them where the sweep asks for it."""
    path = str(output) if output else None
    return EvaluationTracker(path, token=os.environ.get("HF_TOKEN", ""), **(sweep.hf_hub_log_args or {}))


def update_card(sweep: Sweep) -> None:
    """After the last cell: the Hub's page of what was pushed."""
    pushed = sweep.hf_hub_log_args or {}
    if pushed.get("push_results_to_hub") or pushed.get("push_samples_to_hub"):
        tracker(None, sweep).recreate_metadata_card()


def log_to_wandb(cell: Cell, results: Mapping[str, Any], samples: Mapping[str, Any], sweep: Sweep) -> None:
    """A cell as a W&B run of its own, named after its task and policy and grouped with the sweep's others.

    What W&B refuses of a cell is told and ends nothing, as in the harness.
    """
    if sweep.wandb_args is None:
        return
    arguments = {"group": sweep.output_path.name, "job_type": cell.task, **sweep.wandb_args}
    arguments["name"] = " ".join(filter(None, (arguments.get("name"), cell.task, cell.name)))
    logger = WandbLogger(arguments, dict(sweep.wandb_config_args or {}))
    try:
        logger.post_init(dict(results))
        logger.log_eval_result()
        logger.log_eval_samples({task: _complete(own, results["configs"][task]) for task, own in samples.items()})
    except Exception as error:  # of another package, which has many
        log.warning("cell %s of %s is not on W&B: %s", cell.name, cell.task, error)
    finally:
        logger.run.finish()


def _complete(samples: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Samples that all have every metric of their task, as the harness's logger takes for granted: None where a
    document has no part in one."""
    lacking = dict.fromkeys(entry["metric"] for entry in config.get("metric_list") or ())
    return [{**lacking, **sample} for sample in samples]
