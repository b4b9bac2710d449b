"""W&B and the Hub: the harness's own loggers for a sweep's cells, with the harness's own arguments."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lm_eval.loggers import EvaluationTracker, WandbLogger

from fairkv_eval.errors import UsageError, unknown
from fairkv_eval.sweep.cell import Cell
from fairkv_eval.sweep.config import Sweep

log = logging.getLogger(__name__)

_SET_HERE = {"self", "output_path", "token"}


def check_loggers(sweep: Sweep) -> None:
    """Raise UsageError for a logger that is unavailable or misconfigured. Called before anything is loaded."""
    if sweep.wandb_args is not None and find_spec("wandb") is None:
        raise UsageError("wandb_args needs W&B: pip install wandb")
    if sweep.wandb_config_args is not None and sweep.wandb_args is None:
        raise UsageError("wandb_config_args is set and wandb_args is not: wandb_args turns W&B on")
    allowed = set(inspect.signature(EvaluationTracker.__init__).parameters) - _SET_HERE
    for name in sweep.hf_hub_log_args or ():
        if name not in allowed:
            raise unknown("argument of hf_hub_log_args", name, allowed)
    try:
        tracker(None, sweep)
    except ValueError as error:  # no token
        raise UsageError(f"hf_hub_log_args: {error}") from error


def tracker(output: Path | None, sweep: Sweep) -> EvaluationTracker:
    """The harness's logger that writes a cell's files, and pushes them to the Hub if that is configured."""
    return EvaluationTracker(
        str(output) if output else None, token=os.environ.get("HF_TOKEN", ""), **(sweep.hf_hub_log_args or {})
    )


@contextmanager
def swallowed_errors() -> Iterator[list[str]]:
    """Collect the errors that the harness's tracker logs at level INFO instead of raising them."""
    logger = logging.getLogger(EvaluationTracker.__module__)
    errors: list[str] = []
    level, shown = logger.level, logger.getEffectiveLevel()

    def collect(record: logging.LogRecord) -> bool:
        if "Error(" in record.getMessage():
            errors.append(record.getMessage())
        return record.levelno >= shown

    logger.setLevel(min(shown, logging.INFO))
    logger.addFilter(collect)
    try:
        yield errors
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)


def update_card(sweep: Sweep) -> None:
    """Update the Hub's page once all cells are pushed; nothing if none are."""
    arguments = sweep.hf_hub_log_args or {}
    if arguments.get("push_results_to_hub") or arguments.get("push_samples_to_hub"):
        tracker(None, sweep).recreate_metadata_card()


def log_to_wandb(cell: Cell, results: Mapping[str, Any], samples: Mapping[str, Any], sweep: Sweep) -> None:
    """Log a cell as a W&B run, named after its task and policy and grouped with the sweep's others.

    An error of W&B is logged and stops nothing, as in the harness.
    """
    if sweep.wandb_args is None:
        return
    arguments = {"group": sweep.output_path.name, "job_type": cell.task, **sweep.wandb_args}
    arguments["name"] = " ".join(filter(None, (arguments.get("name"), cell.task, cell.name)))
    logger = WandbLogger(arguments, dict(sweep.wandb_config_args or {}))
    try:
        logger.post_init(dict(results))
        logger.log_eval_result()
        logger.log_eval_samples(dict(samples))
    except Exception as error:  # whatever that package raises
        log.warning("cell %s of %s is not on W&B: %s", cell.name, cell.task, error)
    finally:
        logger.run.finish()
