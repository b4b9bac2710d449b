"""A sweep as Ray tasks, on one machine or on a cluster whose machines share the output folder.

A share of the cells is one task on one model, so that its cells share their prefills; if workers would be left without
work, its policies are divided. Each share has its own journal, and a sweep that resumes reads all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fairkv_eval.errors import UsageError
from fairkv_eval.harness.processes import bootstrap_without_forks
from fairkv_eval.sweep.config import Sweep, sweep_of
from fairkv_eval.sweep.folder import SweepFolder
from fairkv_eval.sweep.loggers import update_card
from fairkv_eval.sweep.progress import ReportingBar, WorkerBars, cells_done, running_bars
from fairkv_eval.sweep.run import check_launch, run_model
from fairkv_eval.sweep.tasks import load_tasks

_MANY = 3  # shares per worker from which on an uneven division costs little time
_REFRESH = 2.0  # seconds between updates of the bar


@dataclass(frozen=True)
class Share:
    """The cells of one Ray task: indices of a model and of policies in the sweep, and the task's name."""

    model: int
    task: str
    policies: tuple[int, ...]

    @property
    def journal(self) -> str:
        return f"journal-{self.model}-{self.task.replace('/', '-')}-{self.policies[0]}"

    def sweep(self, keys: Mapping[str, Any]) -> Sweep:
        """The sweep of these keys, reduced to this share's model and policies."""
        whole = sweep_of(keys)
        policies = tuple(whole.policies[index] for index in self.policies)
        return replace(whole, models=(whole.models[self.model],), policies=policies)


def run_on_ray(sweep: Sweep, keys: Mapping[str, Any]) -> list[Path]:
    """Run what is unfinished; return the folders of all cells. ``keys``: those that the sweep was made of."""
    check_launch(sweep)
    ray = _import_ray()
    tasks = load_tasks(sweep, sweep.models[0])  # for their names, which no model changes
    with SweepFolder(sweep.output_path).lock(), _connected(ray):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=0)(run_share)
        shares = list(shares_of(sweep, list(tasks), gpus or int(resources.get("CPU", 1))))
        bars = ray.remote(num_cpus=0)(WorkerBars).remote()
        keys = _with_absolute_paths(sweep, keys)
        running = {remote.remote(keys, share, bars): share for share in shares}
        folders = _wait(ray, running, bars, bars_per_share=2 if sweep.fidelity else 1)
    update_card(sweep)
    return [folder for share in shares for folder in folders[share]]


def shares_of(sweep: Sweep, tasks: Sequence[str], workers: int) -> Iterator[Share]:
    """Divide all cells. With fidelity a task's policies stay together, since they follow the full cache's answers."""
    pairs = [(model, task) for model in range(len(sweep.models)) for task in tasks]
    step = 1 if sweep.fidelity else min(len(sweep.policies), shares_per_pair(len(pairs), workers))
    indices = range(len(sweep.policies))
    for model, task in pairs:
        # Every ``step``-th policy, so that each share has some of the strong and some of the weak compressions.
        yield from (Share(model, task, tuple(indices[first::step])) for first in range(step))


def shares_per_pair(pairs: int, workers: int) -> int:
    """The smallest number of shares per pair of model and task with which all workers end at about the same time: the
    shares come out even, or one more or less matters little. Every share costs one more prefill."""
    return next(n for n in count(1) if pairs * n % workers == 0 or pairs * n >= _MANY * workers)


def run_share(keys: dict[str, Any], share: Share, bars: Any) -> list[str]:
    """Run a share in a worker; return the folders of its cells. ``bars``: the actor that its progress goes to."""
    bootstrap_without_forks()
    sweep = share.sweep(keys)
    tasks = {share.task: load_tasks(sweep, sweep.models[0])[share.task]}
    bar = partial(ReportingBar, report=partial(bars.report.remote, share.journal))
    return [str(folder) for folder in run_model(sweep, sweep.models[0], tasks, share.journal, bar)]


def _wait(ray: Any, running: Mapping[Any, Share], bars: Any, bars_per_share: int) -> dict[Share, list[Path]]:
    """Show how far the running shares are until all are done; return the folders of their cells."""
    folders: dict[Share, list[Path]] = {}
    form = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=sum(len(share.policies) for share in running.values()), desc="cells", bar_format=form) as bar:
        waiting = list(running)
        while waiting:
            done, waiting = ray.wait(waiting, timeout=_REFRESH)
            folders |= {running[reference]: _folders(ray, reference) for reference in done}
            cells = {running[reference].journal: len(running[reference].policies) for reference in waiting}
            positions = ray.get(bars.positions.remote())
            bar.set_postfix_str(running_bars(positions, cells), refresh=False)
            finished = sum(len(share.policies) for share in folders) + cells_done(positions, cells, bars_per_share)
            bar.update(max(0.0, finished - bar.n))
            bar.refresh()  # the text and the time, even if no cell got any further
    return folders


def _folders(ray: Any, reference: Any) -> list[Path]:
    """The result of a share that is done. A UsageError in a worker is raised as one here."""
    try:
        return [Path(folder) for folder in ray.get(reference)]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UsageError):
            raise UsageError(str(error.cause)) from None
        raise


def _with_absolute_paths(sweep: Sweep, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with paths that do not depend on a worker's working directory."""
    keys = {**keys, "output_path": str(sweep.output_path.resolve())}
    if sweep.include_path:
        keys["include_path"] = [str(Path(path).resolve()) for path in sweep.include_path]
    return keys


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--launcher ray needs Ray: pip install 'fairkv-eval[ray]'") from error
    return ray


@contextmanager
def _connected(ray: Any) -> Iterator[None]:
    """Start Ray, and stop it at the end, unless it is running already."""
    if ray.is_initialized():
        yield
        return
    ray.init(include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()
