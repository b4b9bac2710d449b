"""A sweep's cells as Ray tasks, on one machine or a cluster whose machines share the output folder.

A part is one task of one model, so that its cells share their prefills; where places would be left without work, its
policies are divided. Every part has a journal of its own, and all are read when a sweep goes on.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from fairkv_eval.errors import UsageError
from fairkv_eval.harness.processes import bootstrap_without_forks
from fairkv_eval.sweep.config import Sweep, sweep_of
from fairkv_eval.sweep.loggers import update_card
from fairkv_eval.sweep.run import check, load_tasks, locked, run_model

_MANY = 3  # parts a place from which on it matters little that they do not come out even
_LOOK = 2.0  # seconds between looks at how far the parts are


@dataclass(frozen=True)
class Part:
    """What one Ray task does: places in the sweep's models and policies, and a task's name."""

    model: int
    task: str
    policies: tuple[int, ...]

    @property
    def journal(self) -> str:
        return f"journal-{self.model}-{self.task.replace('/', '-')}-{self.policies[0]}"


def run_on_ray(sweep: Sweep, given: Mapping[str, Any]) -> list[Path]:
    """Run what is not finished yet, ``given`` being the keys that the sweep was made of; the folders of all cells."""
    check(sweep)
    ray = _ray()
    tasks = load_tasks(sweep)
    with locked(sweep.output_path):
        started = not ray.is_initialized()
        if started:
            ray.init(include_dashboard=False, log_to_driver=False)
        try:
            resources = ray.cluster_resources()
            gpus = int(resources.get("GPU", 0))
            remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=0)(_run_part)
            divided = list(parts(sweep, list(tasks), gpus or int(resources.get("CPU", 1))))
            keys = _anywhere(sweep, given)
            gathered = ray.remote(num_cpus=0)(Gathered).remote()
            waiting = {remote.remote(keys, part, gathered): part for part in divided}
            folders = _gather(ray, waiting, divided, gathered, 2 if sweep.fidelity else 1)
        finally:
            if started:
                ray.shutdown()
    update_card(sweep)
    return folders


def parts(sweep: Sweep, tasks: list[str], places: int) -> Iterator[Part]:
    """All cells in parts. With fidelity a task's policies stay together, as they follow the full cache's answers."""
    pairs = [(model, task) for model in range(len(sweep.models)) for task in tasks]
    each = 1 if sweep.fidelity else min(len(sweep.policies), divisions(len(pairs), places))
    everything = range(len(sweep.policies))
    for model, task in pairs:
        # One in ``each``, so that each part has some of the strong and some of the weak compressions.
        yield from (Part(model, task, tuple(everything[first::each])) for first in range(each))


def divisions(pairs: int, places: int) -> int:
    """The smallest number of parts for each pair of model and task with which all places end about together: the parts
    come out even, or are so many that one more or less matters little. Every division is one more prefill."""
    return next(n for n in count(1) if pairs * n % places == 0 or pairs * n >= _MANY * places)


def _run_part(given: dict[str, Any], part: Part, gathered: Any) -> list[str]:
    """In a worker: the folders of a part's cells. ``gathered``: the actor that is told how far it is."""
    bootstrap_without_forks()
    sweep = sweep_of(given)
    policies = tuple(sweep.policies[place] for place in part.policies)
    sweep = replace(sweep, models=(sweep.models[part.model],), policies=policies)
    tasks = {part.task: load_tasks(sweep)[part.task]}
    bars = partial(Told, tell=partial(gathered.tell.remote, part.journal))
    return [str(folder) for folder in run_model(sweep, sweep.models[0], tasks, part.journal, bars)]


def _gather(ray: Any, waiting: dict[Any, Part], divided: list[Part], gathered: Any, bars: int) -> list[Path]:
    """The folders of all parts, when they are done; ``bars``: through how many bars a part goes."""
    found: dict[Part, list[Path]] = {}
    form = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"
    with tqdm(total=sum(len(part.policies) for part in divided), desc="cells", bar_format=form) as bar:
        left = list(waiting)
        while left:
            done, left = ray.wait(left, timeout=_LOOK)
            for part in done:
                found[waiting[part]] = _folders(ray, part)
            running = {waiting[part].journal: len(waiting[part].policies) for part in left}
            stands = ray.get(gathered.stands.remote())
            bar.set_postfix_str(line(stands, running), refresh=False)
            now = sum(len(part.policies) for part in found) + cells_done(stands, running, bars)
            bar.update(max(0.0, now - bar.n))
            bar.refresh()  # what is under way and the time, though no cell got any further
    return [folder for part in divided for folder in found[part]]


def _folders(ray: Any, part: Any) -> list[Path]:
    """What a part that is done returned. What is wrong with the input is told in one line, wherever it was found."""
    try:
        return [Path(folder) for folder in ray.get(part)]
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UsageError):
            raise UsageError(str(error.cause)) from None
        raise


def _anywhere(sweep: Sweep, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys with paths that do not depend on where a worker is started."""
    keys = {**given, "output_path": str(sweep.output_path.resolve())}
    if sweep.include_path:
        keys["include_path"] = [str(Path(path).resolve()) for path in sweep.include_path]
    return keys


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--launcher ray needs Ray: pip install 'fairkv-eval[ray]'") from error
    return ray


class Stand(NamedTuple):
    """A bar's position: ``done`` of ``total``, and what it says beside it."""

    done: float
    total: float
    more: str

    @property
    def share(self) -> float:
        return self.done / self.total if self.total else 1.0


Stands = Mapping[str, Mapping[str, Stand]]  # {part: {its bar's name: where it is}}


class Told(tqdm):
    """A bar that is not drawn: ``tell(name, stand)`` is called whenever it would be."""

    def __init__(self, *, tell: Callable[[str, Stand], object], **given: Any) -> None:
        self._tell = tell  # the bar is shown for the first time while it is made
        super().__init__(file=io.StringIO(), **given)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        self._tell(self.desc, Stand(self.n or 0, self.total or 0, str(self.postfix or "")))


class Gathered:
    """Where every part's bars are, as the parts tell it."""

    def __init__(self) -> None:
        self._stands: dict[str, dict[str, Stand]] = {}

    def tell(self, part: str, name: str, stand: Stand) -> None:
        self._stands.setdefault(part, {})[name] = stand

    def stands(self) -> Stands:
        return self._stands


def cells_done(stands: Stands, running: Mapping[str, int], bars: int) -> float:
    """Of the cells of the parts that run ({part: its cells}) how many are done, with shares of those under way: a part
    has gone through ``bars`` bars when it ends."""
    shares = {part: sum(stand.share for stand in stands.get(part, {}).values()) / bars for part in running}
    return sum(cells * min(1.0, shares[part]) for part, cells in running.items())


def line(stands: Stands, running: Iterable[str]) -> str:
    """What is under way: the last bar of each part that runs and was heard of."""
    last = [list(stands[part].items())[-1] for part in running if stands.get(part)]
    return "; ".join(f"{name} {s.done:g}/{s.total:g}{f' ({s.more})' if s.more else ''}" for name, s in last)
