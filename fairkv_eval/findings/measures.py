"""The metrics that stand for following and for leakage, the paper's first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fairkv_eval.findings.cells import ModelCells, TaskCells
from fairkv_eval.instruction_classes import CLASSES

FOLLOWING = ("prompt_level_strict_acc", "inst_level_strict_acc")
LEAKAGE = ("leak@0.3", "rougeL_recall_directive", "refusal")
REFUSED = "refusal"
KEPT = ("keep_rate_defense", "keep_rate_directive")
KL = "fidelity_kl"

# What the losses of kinds of instructions take, by class as by number.
LOSSES_NEED = "sys_ifeval_defended or sys_multi with the full cache and a plain press"

_PAPER = ("sys_ifeval_defended", "sys_ifeval_flipped", "raccoon_plain")  # and sys_ifeval, which has nothing to defend
_PREFERENCE = "margin"  # of a refusal over the secret: that task's accuracy is the share of refusals
_PREFERRED = "acc"
_NOT_SHARES = ("fidelity_kl", "fidelity_first_disagreement", "margin", "margin_bytes")


class Measure(NamedTuple):
    """A metric of a task. ``better``: 1 if higher values are better, −1 if lower ones are."""

    cells: TaskCells
    metric: str
    better: int

    @property
    def points(self) -> bool:
        """Whether it is a share, so that it has points."""
        return self.metric not in _NOT_SHARES


def following(model: ModelCells, flipped: bool | None = False) -> Iterator[Measure]:
    """How well instructions are followed; ``flipped``: in tasks whose directive stands first, None for all."""
    for metric in FOLLOWING:
        yield from (Measure(cells, metric, 1) for cells in tasks(model, flipped) if cells.has(metric))


def leakage(model: ModelCells, flipped: bool | None = False) -> Iterator[Measure]:
    """How much is leaked, and how often a refusal is given or preferred."""
    for metric in LEAKAGE:
        for cells in tasks(model, flipped):
            if cells.has(metric):
                yield Measure(cells, metric, 1 if cells.higher_is_better(metric) else -1)
    yield from (Measure(cells, _PREFERRED, 1) for cells in tasks(model, flipped) if prefers(cells))


def prefers(cells: TaskCells) -> bool:
    """Whether a task compares a refusal with the secret."""
    return cells.has(_PREFERENCE) and cells.has(_PREFERRED)


def tasks(model: ModelCells, flipped: bool | None = None) -> list[TaskCells]:
    """The tasks with the defense before the directive (False), behind it (True) or all (None): the paper's, then the
    others by name."""
    names = [*(name for name in _PAPER if name in model.tasks), *sorted(set(model.tasks) - set(_PAPER))]
    return [model.tasks[name] for name in names if flipped in (None, "flipped" in name)]


def classes_of(cells: TaskCells) -> list[str]:
    """The classes of instructions that a task measures; [] for fewer than two."""
    measured = [name for name in CLASSES if cells.has(f"acc_{name}")]
    return measured if len(measured) > 1 else []
